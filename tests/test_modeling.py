"""What the model promises: GPT-2's numbers, whichever way they are asked for, and clear refusals."""

import doctest
import inspect
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling_gpt_scratch import GPTScratchForCausalLM, GPTScratchModel, modeling_gpt_scratch
from modeling_gpt_scratch.modeling_gpt_scratch import chunked_causal_lm_loss

# float32 on CPU: logits of size 1 to 5, where other orders of summation differ by about 1e-6.
CLOSE = {"atol": 1e-5, "rtol": 0}
# Gradients of size 0.01 to 1, summed over all tokens: the same few units in the last place.
CLOSE_GRADIENTS = {"atol": 1e-6, "rtol": 1e-4}


def random_ids(*shape: int) -> torch.LongTensor:
    return torch.randint(0, 128, shape)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def loss_and_gradients(model: nn.Module, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), gradients(model)


def assert_same_gradients(actual: dict, expected: dict, **tolerance) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            actual[name], gradient, **tolerance or CLOSE_GRADIENTS, msg=lambda message, name=name: f"{name}: {message}"
        )


# The library's GPT-2


def as_gpt2(tensors: dict[str, torch.Tensor], num_layers: int) -> dict[str, torch.Tensor]:
    """Our tensors (weights or gradients) under GPT-2's names: qkv fused, matrices transposed (GPT-2 has Conv1D)."""
    result = {
        "transformer.wte.weight": tensors["model.embed_tokens.weight"],
        "transformer.wpe.weight": tensors["model.embed_positions.weight"],
        "transformer.ln_f.weight": tensors["model.norm.weight"],
        "transformer.ln_f.bias": tensors["model.norm.bias"],
        "lm_head.weight": tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]),
    }
    for layer in range(num_layers):
        ours, theirs = f"model.layers.{layer}", f"transformer.h.{layer}"
        for our_name, their_name in (
            ("self_attn.o_proj", "attn.c_proj"),
            ("mlp.fc_in", "mlp.c_fc"),
            ("mlp.fc_out", "mlp.c_proj"),
        ):
            result[f"{theirs}.{their_name}.weight"] = tensors[f"{ours}.{our_name}.weight"].T
            result[f"{theirs}.{their_name}.bias"] = tensors[f"{ours}.{our_name}.bias"]
        for our_name, their_name in (("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2")):
            for kind in ("weight", "bias"):
                result[f"{theirs}.{their_name}.{kind}"] = tensors[f"{ours}.{our_name}.{kind}"]
        qkv = [f"{ours}.self_attn.{letter}_proj" for letter in "qkv"]
        result[f"{theirs}.attn.c_attn.weight"] = torch.cat([tensors[f"{name}.weight"].T for name in qkv], dim=1)
        if f"{qkv[0]}.bias" in tensors:
            result[f"{theirs}.attn.c_attn.bias"] = torch.cat([tensors[f"{name}.bias"] for name in qkv])
    return result


@pytest.mark.parametrize("qkv_bias", [True, False], ids=["qkv bias", "no qkv bias"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_loss_and_gradients_equal_gpt2_with_the_same_weights(tied, qkv_bias, tiny_model):
    model = tiny_model(tie_word_embeddings=tied, qkv_bias=qkv_bias)
    config = model.config
    gpt2_config = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.max_position_embeddings,
        n_embd=config.hidden_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
    )
    gpt2 = GPT2LMHeadModel(gpt2_config).eval()
    weights = as_gpt2(model.state_dict(), config.num_hidden_layers)
    if not qkv_bias:
        weights |= {name: torch.zeros(96) for name in gpt2.state_dict() if name.endswith("c_attn.bias")}
    gpt2.load_state_dict(weights)

    input_ids = random_ids(2, 64)
    ours, theirs = model(input_ids, labels=input_ids), gpt2(input_ids, labels=input_ids)
    assert ours.logits.std() > 0.5  # else the comparison would say little
    torch.testing.assert_close(ours.logits, theirs.logits, **CLOSE)
    torch.testing.assert_close(ours.loss, theirs.loss, **CLOSE)

    ours.loss.backward()
    theirs.loss.backward()
    expected = gradients(gpt2)
    if not qkv_bias:
        expected = {name: gradient for name, gradient in expected.items() if not name.endswith("c_attn.bias")}
    actual = as_gpt2(gradients(model), config.num_hidden_layers)
    if tied:
        del actual["lm_head.weight"]
    assert_same_gradients(actual, expected)


# Initialisation


@pytest.mark.parametrize(
    "build", [GPTScratchForCausalLM, AutoModelForCausalLM.from_config], ids=["class", "from_config"]
)
def test_initial_weights_are_gpt2s(build, tiny_config):
    num_layers = 4
    model = build(tiny_config(hidden_size=128, num_hidden_layers=num_layers, tie_word_embeddings=False))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            writes_to_residual_stream = name.endswith(("o_proj.weight", "fc_out.weight"))
            expected = 0.02 / math.sqrt(2 * num_layers) if writes_to_residual_stream else 0.02
            # At least 64 x 128 values: the sample's standard deviation is within 0.8 % of the true one (one sigma).
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
            assert abs(parameter.mean().item()) < 0.05 * expected, name


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_initial_loss_is_that_of_a_uniform_guess(tied, tiny_config):
    model = GPTScratchForCausalLM(tiny_config(tie_word_embeddings=tied)).eval()
    input_ids = random_ids(8, 64)
    loss = model(input_ids, labels=input_ids).loss.item()
    # Initial logits have a standard deviation of 0.02 * sqrt(32) = 0.11, which moves the loss by less than 0.02.
    assert loss == pytest.approx(math.log(128), abs=0.02)


def test_model_builds_on_the_meta_device_without_buffers(tiny_config):
    with torch.device("meta"):
        model = GPTScratchForCausalLM(tiny_config())
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert list(model.buffers()) == []  # a computed buffer would come back from loading as garbage


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_loading_returns_the_saved_weights(tied, tiny_model, tmp_path):
    model = tiny_model(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    loaded, info = GPTScratchForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())

    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is GPTScratchModel
    input_ids = random_ids(1, 8)
    assert torch.equal(base(input_ids).last_hidden_state, model.model(input_ids).last_hidden_state)


# Attention, positions and padding


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


def test_eager_attention_equals_sdpa(tiny_model):
    model = tiny_model()
    input_ids = random_ids(2, 12)
    mask = torch.ones_like(input_ids)
    mask[0, :5] = 0
    logits = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        logits[implementation] = model(input_ids, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(logits["eager"], logits["sdpa"], **CLOSE)


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
    cache = model(input_ids).past_key_values
    assert cache.get_seq_length() == 6
    assert model(input_ids, use_cache=False).past_key_values is None
    next_logits = model(input_ids[:, :1], past_key_values=cache).logits
    expected = model(torch.cat([input_ids, input_ids[:, :1]], dim=1)).logits[:, -1:]
    torch.testing.assert_close(next_logits, expected, **CLOSE)


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


def pack(lengths: list[int]) -> torch.LongTensor:
    return torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)


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


def test_inputs_embeds_equal_ids(tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 9)
    embedded = model(inputs_embeds=model.get_input_embeddings()(input_ids)).logits
    assert torch.equal(embedded, model(input_ids).logits)


@pytest.mark.parametrize(
    "options",
    [{}, {"cache_implementation": "static"}, {"use_cache": False}],
    ids=["dynamic cache", "static cache", "no cache"],
)
def test_a_left_padded_batch_generates_what_each_row_generates_alone(options, tiny_model):
    model = tiny_model(pad_token_id=0)
    options = {"max_new_tokens": 10, "do_sample": False, **options}
    prompts = [random_ids(1, length) for length in (3, 8, 5)]
    batch = torch.cat([F.pad(prompt, (8 - prompt.shape[1], 0), value=0) for prompt in prompts])
    mask = torch.cat([F.pad(torch.ones_like(prompt), (8 - prompt.shape[1], 0)) for prompt in prompts])
    together = model.generate(batch, attention_mask=mask, **options)[:, 8:]
    alone = [
        model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[:, prompt.shape[1] :]
        for prompt in prompts
    ]
    assert together.shape == (3, 10)
    assert torch.equal(together, torch.cat(alone))


def test_beams_reorder_the_cache(tiny_model):
    model, input_ids = tiny_model(pad_token_id=0), random_ids(1, 5)
    options = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(input_ids, **options), model.generate(input_ids, use_cache=False, **options))


def test_generation_fills_every_position(tiny_model):
    model = tiny_model(pad_token_id=0)
    assert model.generate(random_ids(1, 10), max_length=64, do_sample=False).shape == (1, 64)


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


# Refusals


def short_model_inputs(case: str, config) -> dict:
    ids = random_ids(1, 10)
    return {
        "too long": {"input_ids": random_ids(1, 65)},
        "too long with a cache": {"input_ids": random_ids(1, 65), "past_key_values": DynamicCache(config=config)},
        "position out of range": {"input_ids": ids, "position_ids": torch.arange(55, 65).unsqueeze(0)},
        "position out of range with a cache": {
            "input_ids": ids,
            "position_ids": torch.arange(55, 65).unsqueeze(0),
            "past_key_values": DynamicCache(config=config),
        },
        "static cache too long": {
            "input_ids": ids,
            "past_key_values": StaticCache(config=config, max_cache_len=65),
        },
        "tuple": {"input_ids": ids, "past_key_values": ((ids, ids),)},
        "both inputs": {"input_ids": ids, "inputs_embeds": torch.zeros(1, 10, 32)},
        "no input": {},
        "skip_logits without labels": {"input_ids": ids, "skip_logits": True},
    }[case]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("too long", "65 positions, but max_position_embeddings is 64: shorten the input"),
        ("too long with a cache", "65 positions, but max_position_embeddings is 64: shorten the input"),
        ("position out of range", "65 positions, but max_position_embeddings is 64"),
        ("position out of range with a cache", "65 positions, but max_position_embeddings is 64"),
        ("static cache too long", "up to 65 tokens, but max_position_embeddings is 64: make the cache shorter"),
        ("tuple", r"past_key_values is a tuple, .* pass transformers.DynamicCache\(\)"),
        ("both inputs", "Exactly one of input_ids and inputs_embeds"),
        ("no input", "Exactly one of input_ids and inputs_embeds"),
        ("skip_logits without labels", "needs labels or shift_labels"),
    ],
)
def test_impossible_inputs_are_refused_with_a_reason(case, message, tiny_model):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        model(**short_model_inputs(case, model.config))


def test_exactly_as_many_tokens_as_positions_are_accepted(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 64)
    assert model(input_ids).logits.shape == (1, 64, 128)
    cache = StaticCache(config=model.config, max_cache_len=64)
    parts = [model(part, past_key_values=cache).logits for part in input_ids.split(32, dim=1)]
    assert torch.cat(parts, dim=1).shape == (1, 64, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "65 positions, but max_position_embeddings is 64: .*generate fewer tokens"),
        ({"cache_implementation": "static"}, "The cache holds up to .* make the cache shorter"),
    ],
    ids=["dynamic cache", "static cache"],
)
def test_generating_beyond_the_last_position_is_refused(options, message, tiny_model):
    model = tiny_model(pad_token_id=0)
    with pytest.raises(ValueError, match=message):
        model.generate(random_ids(1, 10), max_new_tokens=60, do_sample=False, **options)


def test_padding_takes_no_positions(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 40)
    padded = torch.cat([torch.zeros(1, 30, dtype=torch.long), input_ids], dim=1)  # 70 columns, 64 positions
    mask = torch.cat([torch.zeros(1, 30, dtype=torch.long), torch.ones(1, 40, dtype=torch.long)], dim=1)
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 30:], model(input_ids).logits, **CLOSE)


def test_a_model_that_refused_to_generate_too_much_still_generates_less(tiny_model):
    model = tiny_model(pad_token_id=0)
    input_ids = random_ids(1, 10)
    with pytest.raises(ValueError, match="max_position_embeddings is 64"):
        model.generate(input_ids, max_new_tokens=60, do_sample=False)
    assert model.generate(input_ids, max_new_tokens=4, do_sample=False).shape == (1, 14)


# Loss


def test_labels_are_shifted_once(tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 12)
    labels = input_ids.clone()
    labels[0, 4:7] = -100
    outputs = model(input_ids, labels=labels)
    log_probabilities = outputs.logits.log_softmax(dim=-1)
    terms = [
        -log_probabilities[row, position, labels[row, position + 1]]
        for row in range(2)
        for position in range(11)
        if labels[row, position + 1] != -100
    ]
    assert len(terms) == 22 - 3
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(outputs.loss, expected, **CLOSE)
    torch.testing.assert_close(model(input_ids, labels=labels, skip_logits=True).loss, expected, **CLOSE)


@pytest.mark.parametrize("skip_logits", [False, True], ids=["logits", "skip_logits"])
def test_shift_labels_are_used_as_they_are_and_instead_of_labels(skip_logits, tiny_model):
    model, window = tiny_model(), random_ids(2, 13)
    input_ids, targets = window[:, :-1], window[:, 1:]
    expected = F.cross_entropy(model(input_ids).logits.flatten(0, 1), targets.flatten())
    for labels in (None, input_ids):
        outputs = model(input_ids, labels=labels, shift_labels=targets, skip_logits=skip_logits)
        torch.testing.assert_close(outputs.loss, expected, **CLOSE)


def test_forward_has_no_parameter_named_shift_labels():
    parameters = inspect.signature(GPTScratchForCausalLM.forward).parameters
    assert "labels" in parameters
    assert "shift_labels" not in parameters  # the Trainer would wait for it and report no eval_loss
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD  # how num_items_in_batch arrives


@pytest.mark.parametrize("as_tensor", [False, True], ids=["int", "tensor"])
@pytest.mark.parametrize("skip_logits", [False, True], ids=["logits", "skip_logits"])
def test_micro_batches_with_num_items_in_batch_add_up_to_the_whole_batch(skip_logits, as_tensor, tiny_model):
    model, input_ids = tiny_model(), random_ids(3, 12)
    labels = input_ids.clone()
    labels[0, 3:] = -100
    whole_loss, whole_gradients = loss_and_gradients(model, input_ids=input_ids, labels=labels)
    count = int((labels[:, 1:] != -100).sum())
    model.zero_grad()
    total = 0.0
    for rows in (slice(0, 1), slice(1, 3)):
        loss = model(
            input_ids[rows],
            labels=labels[rows],
            num_items_in_batch=torch.tensor(count) if as_tensor else count,
            skip_logits=skip_logits,
        ).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole_loss.item(), abs=1e-5)
    assert_same_gradients(gradients(model), whole_gradients)


LOSS_CASES = {
    "labels": {},
    "uneven labels": {"uneven": True},
    "shift_labels": {"shift": True},
    "num_items_in_batch": {"num_items_in_batch": 7},
    "num_items_in_batch as a tensor": {"uneven": True, "num_items_in_batch": torch.tensor(7)},
}


def loss_inputs(uneven: bool = False, shift: bool = False, **options) -> dict:
    window = random_ids(3, 13)
    input_ids, targets = window[:, :-1], window[:, 1:].clone() if shift else window[:, :-1].clone()
    if uneven:  # most of one row, the middle of another, none of the third
        targets[0, :10], targets[1, 4:6] = -100, -100
    return {"input_ids": input_ids, "shift_labels" if shift else "labels": targets, **options}


@pytest.fixture(params=[2**24, 128 * 5, 1], ids=["one chunk", "chunks of 5 rows", "chunks of 1 row"])
def _chunk_sizes(request, monkeypatch):
    monkeypatch.setattr(modeling_gpt_scratch, "LOGITS_PER_CHUNK", request.param)


@pytest.mark.usefixtures("_chunk_sizes")
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("case", LOSS_CASES)
def test_skip_logits_gives_the_loss_and_gradients_of_the_full_path(case, tied, tiny_model):
    model, inputs = tiny_model(tie_word_embeddings=tied), loss_inputs(**LOSS_CASES[case])
    expected_loss, expected = loss_and_gradients(model, **inputs)
    loss, actual = loss_and_gradients(model, **inputs, skip_logits=True)
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    assert_same_gradients(actual, expected)


@pytest.mark.parametrize("skip_logits", [False, True], ids=["logits", "skip_logits"])
@pytest.mark.parametrize("label", [-1, 128])
def test_labels_outside_of_the_vocabulary_are_refused(label, skip_logits, tiny_model):
    labels = random_ids(1, 6)
    labels[0, 3] = label
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        tiny_model()(random_ids(1, 6), labels=labels, skip_logits=skip_logits)


def test_skip_logits_holds_no_logits_and_the_other_path_does(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 6)
    assert model(input_ids, labels=input_ids, skip_logits=True).logits is None
    assert model(input_ids, labels=input_ids).logits.shape == (1, 6, 128)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bf16 weights"])
def test_skip_logits_equals_the_full_path_in_bf16(autocast, tiny_model, monkeypatch):
    monkeypatch.setattr(modeling_gpt_scratch, "LOGITS_PER_CHUNK", 128 * 18)  # two chunks
    model, inputs = tiny_model(), loss_inputs(uneven=True)
    _, exact = loss_and_gradients(model, **inputs)
    if not autocast:
        model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected_loss, expected = loss_and_gradients(model, **inputs)
        loss, actual = loss_and_gradients(model, **inputs, skip_logits=True)
    assert loss.dtype == expected_loss.dtype == torch.float32
    # The same bf16 logits on both sides, and float32 from there on.
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    for name, gradient in exact.items():
        assert actual[name].dtype == expected[name].dtype
        if name.endswith("k_proj.bias"):
            continue  # exactly 0 in theory, so all that is left of it is noise
        # Both paths round to 8 bits (2^-8) at every step, which leaves each 2^-7 to 2^-5 away from the exact gradient.
        # Neither is the better one, so the chunked one may be off by what the full one is, and a few roundings.
        error, full_error = ((found[name].float() - gradient).norm() for found in (actual, expected))
        assert error <= full_error + 2**-6 * gradient.norm(), name


@pytest.mark.parametrize(
    ("hidden_wanted", "weight_wanted"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_skip_logits_computes_only_the_gradients_that_are_wanted(hidden_wanted, weight_wanted):
    hidden_states = torch.randn(2, 6, 32, requires_grad=hidden_wanted)
    weight = torch.randn(128, 32, requires_grad=weight_wanted)
    labels = random_ids(2, 6)
    one_product = 2 * 12 * 32 * 128  # operations of hidden_states @ weight.T, and of each of the two gradients
    with FlopCounterMode(display=False) as counter:
        loss = chunked_causal_lm_loss(hidden_states, weight, labels)
    assert counter.get_total_flops() == (1 + hidden_wanted + weight_wanted) * one_product
    if loss.requires_grad:
        loss.backward()
    assert (hidden_states.grad is not None) == hidden_wanted
    assert (weight.grad is not None) == weight_wanted

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert not chunked_causal_lm_loss(hidden_states, weight, labels).requires_grad
    assert counter.get_total_flops() == one_product


# Outputs


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
    assert set(outputs) == {"logits", "past_key_values"}
    assert torch.equal(model(input_ids, return_dict=False)[0], outputs.logits)


@pytest.mark.parametrize(
    ("keep", "positions"),
    [(0, slice(None)), (1, [8]), (4, [5, 6, 7, 8]), (torch.tensor([0, 3, 8]), [0, 3, 8])],
    ids=["all", "last", "last four", "chosen"],
)
def test_logits_to_keep_computes_only_those(keep, positions, tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 9)
    expected = model(input_ids).logits[:, positions]
    torch.testing.assert_close(model(input_ids, logits_to_keep=keep).logits, expected, **CLOSE)


def test_the_head_reads_last_hidden_state_directly(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 5)
    hidden_states = model.model(input_ids).last_hidden_state
    assert torch.equal(model(input_ids).logits, hidden_states @ model.lm_head.weight.T)


# Membership in the library


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("size", [150, 100])
def test_token_embeddings_can_be_resized(size, tied, tiny_model):
    model = tiny_model(tie_word_embeddings=tied)
    input_ids = torch.randint(0, 100, (2, 9))
    before = model(input_ids).logits
    model.resize_token_embeddings(size)
    assert model.config.vocab_size == size
    assert model.get_output_embeddings().weight.shape == (size, 32)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    kept = min(size, 128)
    after = model(input_ids, labels=input_ids)
    assert after.logits.shape == (2, 9, size)
    torch.testing.assert_close(after.logits[..., :kept], before[..., :kept], **CLOSE)
    chunked = model(input_ids, labels=input_ids, skip_logits=True).loss
    torch.testing.assert_close(chunked, after.loss, **CLOSE)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["embedding_dropout", "attention_dropout", "residual_dropout"])
def test_dropout_is_on_in_training_and_off_in_eval(name, implementation, tiny_model):
    model, input_ids = tiny_model(**{name: 0.5}), random_ids(2, 9)
    model.set_attn_implementation(implementation)
    expected = tiny_model()(input_ids).logits
    torch.testing.assert_close(model(input_ids).logits, expected, **CLOSE)
    model.train()
    first, second = model(input_ids).logits, model(input_ids).logits
    assert (first - second).abs().max() > 0.01
    assert (first - expected).abs().max() > 0.01


def test_residual_dropout_acts_on_both_branches(tiny_model):
    model, input_ids = tiny_model(residual_dropout=1 - 1e-9).train(), random_ids(2, 9)
    embedded = model.model.embed_tokens(input_ids) + model.model.embed_positions(torch.arange(9))
    assert torch.equal(model.model(input_ids).last_hidden_state, model.model.norm(embedded))  # nothing was added


def test_training_without_dropout_equals_eval(tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 9)
    expected = model(input_ids).logits
    assert torch.equal(model.train()(input_ids).logits, expected)


@pytest.mark.parametrize("skip_logits", [False, True], ids=["logits", "skip_logits"])
def test_every_parameter_gets_a_gradient(skip_logits, tiny_model):
    model, input_ids = tiny_model(tie_word_embeddings=False).train(), random_ids(2, 64)
    _, received = loss_and_gradients(model, input_ids=input_ids, labels=input_ids, skip_logits=skip_logits)
    assert received.keys() == dict(model.named_parameters()).keys()
    for name, gradient in received.items():
        # A key's bias adds the same to all scores of a query, which softmax does not see.
        if not name.endswith("k_proj.bias"):
            assert gradient.abs().max() > 1e-5, name


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(use_reentrant, tiny_model):
    model, input_ids = tiny_model(residual_dropout=0.1, attention_dropout=0.1).train(), random_ids(2, 12)
    calls = []
    model.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    inputs = {"input_ids": input_ids, "labels": input_ids, "use_cache": False}

    torch.manual_seed(1)
    expected_loss, expected = loss_and_gradients(model, **inputs)
    assert len(calls) == 1
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    torch.manual_seed(1)
    loss, actual = loss_and_gradients(model, **inputs)
    assert len(calls) == 3  # once more in the forward, once in the backward
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    assert_same_gradients(actual, expected)


def test_parallel_plan_and_split_modules_name_existing_modules(tiny_model):
    model = tiny_model()
    names = [name for name, _ in model.model.named_modules()]
    planned = set()
    for pattern in model.config.base_model_tp_plan:
        expression = re.escape(pattern).replace(r"\*", r"\d+")
        found = {name for name in names if re.fullmatch(expression, name)}
        assert found, pattern
        planned |= found
    assert planned >= {name for name, module in model.model.named_modules() if isinstance(module, nn.Linear)}
    assert set(model._no_split_modules) <= {type(module).__name__ for module in model.modules()}
    assert model.is_backend_compatible()


# Compilation and export


def compiled_inputs(case: str) -> dict:
    input_ids = random_ids(2, 9)
    mask = torch.ones_like(input_ids)
    mask[0, :4] = 0
    return {
        "ids": {"input_ids": input_ids},
        "padding": {"input_ids": input_ids, "attention_mask": mask},
        "packed": {"input_ids": input_ids, "position_ids": pack([5, 4]).expand(2, -1)},
        "labels": {"input_ids": input_ids, "labels": input_ids, "use_cache": False},
        "skip_logits": {"input_ids": input_ids, "labels": input_ids, "use_cache": False, "skip_logits": True},
    }[case]


@pytest.mark.parametrize("case", ["ids", "padding", "packed", "labels", "skip_logits"])
def test_compiled_in_one_graph_equals_eager(case, tiny_model):
    torch._dynamo.reset()
    model, inputs = tiny_model(), compiled_inputs(case)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    outputs, expected = compiled(**inputs), model(**inputs)
    assert set(outputs) == set(expected)
    if expected.logits is not None:
        torch.testing.assert_close(outputs.logits, expected.logits, **CLOSE)
    if expected.loss is not None:
        torch.testing.assert_close(outputs.loss, expected.loss, **CLOSE)
        expected_gradients = loss_and_gradients(model, **inputs)[1]
        model.zero_grad()
        outputs.loss.backward()
        assert_same_gradients(gradients(model), expected_gradients)


@torch.no_grad()
def test_compiled_decoding_with_a_static_cache_equals_full_forward(tiny_model):
    torch._dynamo.reset()
    model, input_ids = tiny_model(), random_ids(1, 12)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    cache = StaticCache(config=model.config, max_cache_len=16)
    logits = [model(input_ids[:, :8], past_key_values=cache).logits]
    logits += [compiled(token, past_key_values=cache).logits for token in input_ids[:, 8:].split(1, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(input_ids).logits, **CLOSE)


def test_exported_program_equals_the_model_at_other_lengths(tiny_model):
    model = tiny_model(use_cache=False)
    length = torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(model, (random_ids(2, 9),), dynamic_shapes={"input_ids": {1: length}})
    input_ids = random_ids(2, 17)
    torch.testing.assert_close(program.module()(input_ids).logits, model(input_ids).logits, **CLOSE)


def test_docstring_example_runs():
    results = doctest.testmod(modeling_gpt_scratch)
    assert results.attempted == 6
    assert results.failed == 0
