"""Attention: its implementations, masks, positions and caches, and what a forward pass records of it."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, StaticCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from modeling_gpt_scratch.modeling_gpt_scratch import CACHE_NAME
from tests.modeling.comparison import CLOSE, cache_of, gpt2_with_the_weights_of, pack, random_ids

# Implementations


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_changing_a_token_leaves_earlier_logits_unchanged(implementation, tiny_model):
    model = tiny_model()
    model.set_attn_implementation(implementation)
    input_ids = random_ids(1, 16)
    changed = input_ids.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 128
    before, after = model(input_ids).logits[0], model(changed).logits[0]
    assert torch.equal(before[:9], after[:9])  # hidden positions have a weight of exactly 0
    assert ((before[9:] - after[9:]).abs().amax(dim=1) > 1e-3).all()


def varied_inputs(case: str) -> dict:
    input_ids = random_ids(2, 12)
    left, right = torch.ones_like(input_ids), torch.ones_like(input_ids)
    left[0, :5], right[1, 8:] = 0, 0
    return {
        "plain": {"input_ids": input_ids},
        "left padding": {"input_ids": input_ids, "attention_mask": left},
        "right padding": {"input_ids": input_ids, "attention_mask": right},
        "packed": {"input_ids": input_ids, "position_ids": pack([5, 7]).expand(2, -1)},
    }[case]


CASES = ["plain", "left padding", "right padding", "packed"]


def attend_without_padding(
    module, query, key, value, attention_mask, scaling, position_ids, dropout=0.0, **kwargs
) -> tuple[torch.Tensor, None]:
    """Attention as flash kernels do it: each document by itself, found by a 2-D mask or by restarting positions."""
    batch_size, _, query_length, _ = query.shape
    past_length = key.shape[2] - query_length
    mixed = torch.zeros_like(query)
    for row in range(batch_size):
        if attention_mask is not None:
            assert attention_mask.shape == (batch_size, key.shape[2])
            documents = torch.where(attention_mask[row].bool(), 0, -1)
        elif past_length:
            documents = torch.zeros(key.shape[2])
        else:
            documents = (position_ids.expand(batch_size, -1)[row] == 0).cumsum(dim=0)
        for document in documents[documents >= 0].unique():
            columns = (documents == document).nonzero()[:, 0]
            rows = columns[columns >= past_length] - past_length
            mixed[row, :, rows] = F.scaled_dot_product_attention(
                query[row, :, rows],
                key[row, :, columns],
                value[row, :, columns],
                attn_mask=columns[None] <= rows[:, None] + past_length,
                scale=scaling,
            )
    return mixed.transpose(1, 2), None


@pytest.fixture
def _implementations_of_others(monkeypatch):
    """Registers, through the library's two interfaces, a function with flash's 2-D masks and one with eager's 4-D."""
    monkeypatch.setattr(AttentionInterface, "_global_mapping", dict(AttentionInterface._global_mapping))
    monkeypatch.setattr(AttentionMaskInterface, "_global_mapping", dict(AttentionMaskInterface._global_mapping))
    AttentionInterface.register("unpadded", attend_without_padding)
    AttentionMaskInterface.register("unpadded", ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])

    def softmax_in_double(module, query, key, value, attention_mask, scaling, **kwargs):
        scores = query.double() @ key.double().transpose(2, 3) * scaling + attention_mask
        return (scores.softmax(dim=-1) @ value.double()).to(query.dtype).transpose(1, 2), None

    AttentionInterface.register("softmax_in_double", softmax_in_double)
    AttentionMaskInterface.register("softmax_in_double", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


@torch.no_grad()
@pytest.mark.usefixtures("_implementations_of_others")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("implementation", ["eager", "flex_attention", "unpadded", "softmax_in_double"])
def test_every_implementation_equals_sdpa(implementation, case, tiny_model):
    model, inputs = tiny_model(), varied_inputs(case)
    assert model.config._attn_implementation == "sdpa"
    expected = model(**inputs).logits
    model.set_attn_implementation(implementation)
    assert model.config._attn_implementation == implementation
    # Where it is compiled, flex attention takes seconds and a C++ compiler; its Python form computes the same.
    with torch.compiler.set_stance("force_eager"):
        logits = model(**inputs).logits
    seen = inputs.get("attention_mask", torch.ones(2, 12)).bool()
    torch.testing.assert_close(logits[seen], expected[seen], **CLOSE)


@torch.no_grad()
@pytest.mark.slow  # compiles for about 8 s
def test_compiled_flex_attention_equals_sdpa(tiny_model):
    model, inputs = tiny_model(), varied_inputs("left padding")
    seen = inputs["attention_mask"].bool()
    expected = model(**inputs).logits[seen]
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model(**inputs).logits[seen], expected, **CLOSE)


@torch.no_grad()
@pytest.mark.usefixtures("_implementations_of_others")
@pytest.mark.parametrize("implementation", ["eager", "flex_attention", "unpadded", "softmax_in_double"])
def test_every_implementation_generates_the_same_tokens(implementation, tiny_model):
    model, inputs = tiny_model(pad_token_id=0), varied_inputs("left padding")
    options = {"max_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, **options)
    model.set_attn_implementation(implementation)
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(model.generate(**inputs, **options), expected)


@torch.no_grad()
@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("implementation", "is_available"),
    [("flash_attention_2", is_flash_attn_2_available), ("flash_attention_3", is_flash_attn_3_available)],
)
def test_flash_attention_equals_sdpa(implementation, is_available, case, tiny_model):
    if not is_available():
        pytest.skip(f"{implementation} is not installed, or there is no GPU for it")
    model = tiny_model().to("cuda", torch.bfloat16)
    inputs = {name: tensor.cuda() for name, tensor in varied_inputs(case).items()}
    seen = inputs.get("attention_mask", torch.ones(2, 12)).bool()
    expected = tiny_model()(**{name: tensor.cpu() for name, tensor in inputs.items()}).logits[seen.cpu()]
    error = (model(**inputs).logits[seen].float().cpu() - expected).norm()
    model.set_attn_implementation(implementation)
    flash_error = (model(**inputs).logits[seen].float().cpu() - expected).norm()
    # Both round to 8 bits at every step; neither is the better one.
    assert flash_error <= error + 2**-6 * expected.norm()


def test_attention_functions_of_others_get_every_keyword(tiny_model, monkeypatch):
    calls = []

    def spy(*args, **kwargs):
        calls.append(kwargs)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](*args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "spy", spy)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, "spy", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model, input_ids = tiny_model(), random_ids(1, 6)
    expected = model(input_ids).logits
    model.set_attn_implementation("spy")
    logits = model(input_ids, cu_seq_lens_q=torch.tensor([0, 6]), max_length_q=6).logits
    assert torch.equal(logits, expected)
    assert len(calls) == 2
    for call in calls:  # what packed and paged attention read
        assert call["cu_seq_lens_q"].tolist() == [0, 6]
        assert call["max_length_q"] == 6
        assert call["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_whole_model_takes_an_implementation_when_built_and_when_loaded(tiny_model, tmp_path):
    model, input_ids = tiny_model(), random_ids(1, 6)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    built = type(model)._from_config(model.config, attn_implementation="eager")
    for other in (loaded, built):
        assert other.config._attn_implementation == "eager"
        assert len(other(input_ids, output_attentions=True).attentions) == 2


def test_an_unknown_implementation_is_refused(tiny_model):
    with pytest.raises(ValueError, match="no_such_attention"):
        tiny_model().set_attn_implementation("no_such_attention")


# Masks and positions


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


# Caches


@pytest.mark.parametrize("chunks", [[12], [5, 1, 6], [1] * 12], ids=["at once", "chunked prefill", "one by one"])
@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_cached_decoding_equals_full_forward(kind, chunks, tiny_model):
    model = tiny_model()
    input_ids = random_ids(2, 12)
    cache = kind(config=model.config, **{"max_cache_len": 20} if kind is StaticCache else {})
    logits = [model(part, past_key_values=cache).logits for part in input_ids.split(chunks, dim=1)]
    assert int(cache.get_seq_length()) == 12
    torch.testing.assert_close(torch.cat(logits, dim=1), model(input_ids, use_cache=False).logits, **CLOSE)


def test_a_cache_is_returned_by_default_and_can_be_declined(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 6)
    cache = cache_of(model(input_ids))
    assert cache.get_seq_length() == 6
    assert cache_of(model(input_ids, use_cache=False)) is None
    assert cache_of(model(input_ids[:, :1], past_key_values=DynamicCache(), use_cache=False)) is None
    next_logits = model(input_ids[:, :1], past_key_values=cache).logits
    expected = model(torch.cat([input_ids, input_ids[:, :1]], dim=1)).logits[:, -1:]
    torch.testing.assert_close(next_logits, expected, **CLOSE)


def test_a_name_of_the_cache_without_one_does_not_hide_the_other(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 8)
    expected = model(input_ids).logits[:, 5:]
    for here, nowhere in (("past_key_values", "cache"), ("cache", "past_key_values")):
        cache = DynamicCache()
        model(input_ids[:, :5], **{here: cache})
        logits = model(input_ids[:, 5:], **{here: cache, nowhere: None}).logits
        torch.testing.assert_close(logits, expected, **CLOSE)
        assert cache.get_seq_length() == 8


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
@pytest.mark.parametrize("legacy", [(), []], ids=["tuple", "list"])
def test_what_older_releases_had_in_place_of_a_cache_is_refused(name, legacy, tiny_model):
    with pytest.raises(ValueError, match="must be a transformers Cache"):
        tiny_model()(random_ids(1, 4), **{name: legacy})


def test_a_cache_made_without_a_configuration_works_too(tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 9)
    cache = DynamicCache()
    logits = [model(part, past_key_values=cache).logits for part in input_ids.split([5, 4], dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(input_ids).logits, **CLOSE)


@pytest.mark.parametrize("padding", [0, 3], ids=["no padding", "left padding"])
def test_a_static_cache_may_get_a_mask_as_long_as_itself(padding, tiny_model):
    """Such a mask has the same shape at every step, so a compiled step is never compiled again."""
    model, input_ids = tiny_model(), random_ids(2, 9)
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[0, :padding] = 0
    cache = StaticCache(config=model.config, max_cache_len=16)
    parts = input_ids.split([5, 1, 3], dim=1)
    logits = [model(part, attention_mask=mask, past_key_values=cache).logits for part in parts]
    expected = model(input_ids, attention_mask=mask[:, :9]).logits
    seen = mask[:, :9].bool()
    torch.testing.assert_close(torch.cat(logits, dim=1)[seen], expected[seen], **CLOSE)


def test_a_mask_that_leaves_out_the_past_is_refused(tiny_model):
    model, cache = tiny_model(), DynamicCache()
    model(random_ids(2, 5), past_key_values=cache)
    with pytest.raises(ValueError, match="attention_mask has 1 columns, but there are 5 past and 1 new tokens"):
        model(random_ids(2, 1), attention_mask=torch.ones(2, 1), past_key_values=cache)


def test_a_cropped_cache_continues_as_if_the_rest_had_never_been(tiny_model):
    model, input_ids, others = tiny_model(), random_ids(2, 9), random_ids(2, 4)
    cache = DynamicCache(config=model.config)
    model(input_ids, past_key_values=cache)
    cache.crop(-3)
    logits = model(others, past_key_values=cache).logits
    expected = model(torch.cat([input_ids[:, :6], others], dim=1)).logits[:, 6:]
    torch.testing.assert_close(logits, expected, **CLOSE)


def test_a_static_cache_that_was_reset_is_as_good_as_new(tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 9)
    cache = StaticCache(config=model.config, max_cache_len=16)
    model(random_ids(2, 12), past_key_values=cache)
    cache.reset()
    torch.testing.assert_close(model(input_ids, past_key_values=cache).logits, model(input_ids).logits, **CLOSE)


def test_a_cache_repeated_and_selected_by_rows_follows_its_rows(tiny_model):
    model, input_ids, others = tiny_model(), random_ids(2, 7), random_ids(3, 2)
    cache = DynamicCache(config=model.config)
    model(input_ids, past_key_values=cache)
    cache.batch_repeat_interleave(2)  # rows 0 0 1 1
    cache.batch_select_indices(torch.tensor([3, 0, 2]))  # rows 1 0 1
    logits = model(others, past_key_values=cache).logits
    expected = model(torch.cat([input_ids[[1, 0, 1]], others], dim=1)).logits[:, 7:]
    torch.testing.assert_close(logits, expected, **CLOSE)


# What a forward pass records


@pytest.mark.parametrize("build", [lambda model: model, lambda model: model.model], ids=["causal lm", "base model"])
def test_hidden_states_and_attentions_are_recorded(build, tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 7)
    model.set_attn_implementation("eager")
    outputs = build(model)(input_ids, output_hidden_states=True, output_attentions=True)
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(2, 7, 32)] * 3
    embedded = model.model.embed_tokens(input_ids) + model.model.embed_positions(torch.arange(7))
    assert torch.equal(outputs.hidden_states[0], embedded)
    assert torch.equal(outputs.hidden_states[-1], model.model(input_ids).last_hidden_state)
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(2, 4, 7, 7)] * 2
    for weights in outputs.attentions:
        assert torch.equal(weights, weights.tril())
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 7), **CLOSE)


def test_nothing_is_recorded_unasked_and_a_tuple_is_returned_on_request(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 5)
    outputs = model(input_ids)
    assert set(outputs) == {"logits", CACHE_NAME}
    assert torch.equal(model(input_ids, return_dict=False)[0], outputs.logits)
    model.config.return_dict = False
    assert torch.equal(model(input_ids)[0], outputs.logits)


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_recording_can_be_switched_on_in_the_configuration(name, tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 7)
    model.set_attn_implementation("eager")
    key = name.removeprefix("output_")
    expected = model(input_ids, **{name: True})[key]
    setattr(model.config, name, True)
    recorded = model(input_ids)
    assert set(recorded) == {"logits", CACHE_NAME, key}
    assert all(torch.equal(*pair) for pair in zip(recorded[key], expected, strict=True))
    assert key not in model(input_ids, **{name: False})


def test_a_tuple_holds_what_the_dictionary_holds_in_the_same_order(tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 7)
    model.set_attn_implementation("eager")
    options = {"labels": input_ids, "output_hidden_states": True, "output_attentions": True, "use_cache": False}
    named = model(input_ids, **options)
    assert list(named) == ["loss", "logits", "hidden_states", "attentions"]
    loss, logits, hidden_states, attentions = model(input_ids, return_dict=False, **options)
    assert torch.equal(loss, named.loss)
    assert torch.equal(logits, named.logits)
    assert all(torch.equal(*pair) for pair in zip(hidden_states, named.hidden_states, strict=True))
    assert all(torch.equal(*pair) for pair in zip(attentions, named.attentions, strict=True))


def test_gradients_reach_the_recorded_tensors_and_equal_gpt2s(tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 7)
    received = []
    for either in (model, gpt2_with_the_weights_of(model)):
        either.set_attn_implementation("eager")
        outputs = either(input_ids, labels=input_ids, output_hidden_states=True, output_attentions=True)
        recorded = [*outputs.hidden_states, *outputs.attentions]
        for tensor in recorded:
            tensor.retain_grad()
        outputs.loss.backward()
        received.append([tensor.grad for tensor in recorded])
    assert len(received[0]) == 3 + 2
    for ours, theirs in zip(*received, strict=True):
        assert ours.abs().max() > 1e-4
        torch.testing.assert_close(ours, theirs, **CLOSE)
