"""What the model promises: GPT-2's numbers, whichever way they are asked for, and clear refusals."""

import doctest
import math
import re

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache, StaticCache

from modeling_gpt_scratch import GPTScratchForCausalLM, GPTScratchModel, modeling_gpt_scratch
from tests.modeling.comparison import (
    CLOSE,
    as_gpt2,
    assert_same_gradients,
    gpt2_with_the_weights_of,
    gradients,
    loss_and_gradients,
    random_ids,
)

# The library's GPT-2


@pytest.mark.parametrize("qkv_bias", [True, False], ids=["qkv bias", "no qkv bias"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_loss_and_gradients_equal_gpt2_with_the_same_weights(tied, qkv_bias, tiny_model):
    model = tiny_model(tie_word_embeddings=tied, qkv_bias=qkv_bias)
    gpt2 = gpt2_with_the_weights_of(model)

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
    actual = as_gpt2(gradients(model), model.config.num_hidden_layers)
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


# Outputs


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
    stages = model.config.base_model_pp_plan
    assert list(stages) == [name for name, _ in model.model.named_children()]  # all parts, in their order
    assert model.supports_pp_plan
    assert set(model._no_split_modules) <= {type(module).__name__ for module in model.modules()}
    assert model.is_backend_compatible()


def test_docstring_example_runs():
    results = doctest.testmod(modeling_gpt_scratch)
    assert results.attempted == 6
    assert results.failed == 0
