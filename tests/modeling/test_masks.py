"""Masks and positions: padding, packed documents and masks of one's own leave every row what it is alone."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from tests.modeling.comparison import CLOSE, gpt2_with_the_weights_of, pack, random_ids


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("with_position_ids", [True, False], ids=["position_ids", "no position_ids"])
def test_a_left_padded_row_equals_the_row_alone(with_position_ids, implementation, tiny_model):
    model = tiny_model()
    model.set_attn_implementation(implementation)
    input_ids = random_ids(3, 10)
    mask = torch.ones_like(input_ids)
    mask[0, :3], mask[1, :9] = 0, 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0) if with_position_ids else None
    logits = model(input_ids, attention_mask=mask, position_ids=positions).logits
    for row, row_logits, row_mask in zip(input_ids, logits, mask.bool(), strict=True):
        alone = model(row[row_mask].unsqueeze(0)).logits[0]
        torch.testing.assert_close(row_logits[row_mask], alone, **CLOSE)


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_a_left_padded_row_continues_like_the_row_alone(kind, tiny_model):
    model = tiny_model()
    input_ids = random_ids(2, 10)
    mask = torch.ones_like(input_ids)
    mask[0, :4] = 0
    cache = kind(config=model.config, **{"max_cache_len": 10} if kind is StaticCache else {})
    parts = [
        model(input_ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache).logits
        for start, end in ((0, 6), (6, 9), (9, 10))
    ]
    alone = model(input_ids[:1, 4:]).logits[0]
    torch.testing.assert_close(torch.cat(parts, dim=1)[0, 4:], alone, **CLOSE)


def test_padding_takes_no_positions(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 40)
    padded = torch.cat([torch.zeros(1, 30, dtype=torch.long), input_ids], dim=1)  # 70 columns, 64 positions
    mask = torch.cat([torch.zeros(1, 30, dtype=torch.long), torch.ones(1, 40, dtype=torch.long)], dim=1)
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 30:], model(input_ids).logits, **CLOSE)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_right_padded_row_equals_the_row_alone(implementation, tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 10)
    model.set_attn_implementation(implementation)
    mask = torch.ones_like(input_ids)
    mask[0, 6:] = 0
    logits = model(input_ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[0, :6], model(input_ids[:1, :6]).logits[0], **CLOSE)
    torch.testing.assert_close(logits[1], model(input_ids[1:]).logits[0], **CLOSE)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_row_of_padding_alone_gives_finite_logits_and_gradients(implementation, tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 10)
    model.set_attn_implementation(implementation)
    mask = torch.ones_like(input_ids)
    mask[0] = 0
    labels = input_ids.masked_fill(mask == 0, -100)
    outputs = model(input_ids, attention_mask=mask, labels=labels)
    outputs.loss.backward()
    assert outputs.logits.isfinite().all()
    torch.testing.assert_close(outputs.logits[1], model(input_ids[1:]).logits[0], **CLOSE)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_row_does_not_depend_on_the_other_rows(implementation, tiny_model):
    model, input_ids = tiny_model(), random_ids(5, 12)
    model.set_attn_implementation(implementation)
    together = model(input_ids, output_hidden_states=True)
    for row in range(5):
        alone = model(input_ids[row : row + 1], output_hidden_states=True)
        torch.testing.assert_close(together.logits[row], alone.logits[0], **CLOSE)
        for states, states_alone in zip(together.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(states[row], states_alone[0], **CLOSE)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("use_cache", [None, False], ids=["default use_cache", "no cache"])
@pytest.mark.parametrize("lengths", [[5, 7, 4], [40, 50]], ids=["short", "longer than the model together"])
def test_packed_documents_equal_separate_ones(lengths, use_cache, implementation, tiny_model):
    model = tiny_model()
    model.set_attn_implementation(implementation)
    input_ids = random_ids(1, sum(lengths))
    packed = model(input_ids, position_ids=pack(lengths), use_cache=use_cache).logits
    separate = [model(document).logits for document in input_ids.split(lengths, dim=1)]
    torch.testing.assert_close(packed, torch.cat(separate, dim=1), **CLOSE)


def test_a_ready_made_mask_is_used_as_it_is(tiny_model):
    model = tiny_model()
    input_ids, lengths = random_ids(1, 11), [5, 6]
    blocks = torch.block_diag(*(torch.ones(length, length).tril() for length in lengths)).bool()
    masked = model(input_ids, attention_mask=blocks[None, None], position_ids=pack(lengths)).logits
    torch.testing.assert_close(masked, model(input_ids, position_ids=pack(lengths)).logits, **CLOSE)


@pytest.mark.parametrize("kind", ["bool", "additive"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_ready_made_mask_gives_gpt2s_logits(implementation, kind, tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 9)
    model.set_attn_implementation(implementation)
    gpt2 = gpt2_with_the_weights_of(model)  # with sdpa: GPT-2 adds True and False to the scores under eager
    mask = torch.rand(2, 1, 9, 9) < 0.6
    mask |= torch.eye(9, dtype=torch.bool)  # each position sees itself, some earlier ones and some later ones
    if kind == "additive":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    logits = model(input_ids, attention_mask=mask).logits
    torch.testing.assert_close(logits, gpt2(input_ids, attention_mask=mask).logits, **CLOSE)
    assert (logits - model(input_ids).logits).abs().max() > 0.1


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_a_ready_made_mask_lets_several_continuations_share_a_prefix(kind, tiny_model):
    model, prefix, continuations = tiny_model(), random_ids(1, 6), random_ids(3, 2)
    expected = model(torch.cat([prefix.expand(3, -1), continuations], dim=1)).logits[:, 6:].reshape(1, 6, -1)

    length = 16 if kind is StaticCache else 12
    cache = kind(config=model.config, **{"max_cache_len": length} if kind is StaticCache else {})
    model(prefix, past_key_values=cache)
    mask = torch.zeros(6, length, dtype=torch.bool)
    mask[:, :6] = True
    mask[:, 6:12] = torch.block_diag(*[torch.ones(2, 2).tril()] * 3).bool()
    logits = model(
        continuations.reshape(1, 6),
        attention_mask=mask[None, None],
        position_ids=torch.tensor([[6, 7] * 3]),
        past_key_values=cache,
    ).logits
    torch.testing.assert_close(logits, expected, **CLOSE)


def test_inputs_embeds_equal_ids(tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 9)
    embedded = model(inputs_embeds=model.get_input_embeddings()(input_ids)).logits
    assert torch.equal(embedded, model(input_ids).logits)
