"""What a forward pass records and returns: hidden states, attentions, tuples."""

import pytest
import torch

from modeling_gpt_scratch.modeling_gpt_scratch import CACHE_NAME
from tests.modeling.comparison import CLOSE, gpt2_with_the_weights_of, random_ids


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
