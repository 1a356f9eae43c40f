"""The loss: shifted once, counted right, and the same whether all logits are held or a few rows of them."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from accelerate import cpu_offload
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from modeling_gpt_scratch import GPTScratchForCausalLM, loss_gpt_scratch
from modeling_gpt_scratch.loss_gpt_scratch import chunked_causal_lm_loss
from tests.modeling.comparison import CLOSE, assert_same_gradients, gradients, loss_and_gradients, random_ids


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
    monkeypatch.setattr(loss_gpt_scratch, "LOGITS_PER_CHUNK", request.param)


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


class AdaptedLinear(nn.Linear):
    """A head that does more than multiply by its weight, as one with an adapter does."""

    def forward(self, hidden_states):
        return super().forward(hidden_states).tanh()


def with_adapter(model: GPTScratchForCausalLM) -> None:
    head = AdaptedLinear(32, 128, bias=False)
    head.load_state_dict(model.lm_head.state_dict())
    model.lm_head = head


def with_bias(model: GPTScratchForCausalLM) -> None:
    head = nn.Linear(32, 128)
    head.load_state_dict(model.lm_head.state_dict() | {"bias": torch.linspace(-1, 1, 128)})
    model.lm_head = head


def with_forward_hook(model: GPTScratchForCausalLM) -> None:
    model.lm_head.register_forward_hook(lambda head, inputs, logits: logits * 2)


def with_forward_pre_hook(model: GPTScratchForCausalLM) -> None:
    model.lm_head.register_forward_pre_hook(lambda head, inputs: (inputs[0] * 2,))


def with_backward_hook(model: GPTScratchForCausalLM) -> None:
    model.lm_head.register_full_backward_hook(lambda head, inputs, outputs: (inputs[0] * 2,))


def with_weight_norm(model: GPTScratchForCausalLM) -> None:
    parametrizations.weight_norm(model.lm_head)


def gathered_when_called(model: GPTScratchForCausalLM) -> None:
    """As DeepSpeed's ZeRO-3 holds it: empty, but for the time of the call."""
    head, full = model.lm_head, model.lm_head.weight.detach().clone()
    head.weight.data = full.new_empty(0)
    head.register_forward_pre_hook(lambda head, inputs: setattr(head.weight, "data", full))


def offloaded(model: GPTScratchForCausalLM) -> None:
    """As `device_map` with "disk" leaves it: its weight has no data, but for the time of the call."""
    cpu_offload(model.lm_head, execution_device=torch.device("cpu"))


HEADS = [
    with_adapter,
    with_bias,
    with_forward_hook,
    with_forward_pre_hook,
    with_backward_hook,
    with_weight_norm,
    gathered_when_called,
    offloaded,
]


@pytest.mark.parametrize("change", HEADS, ids=lambda change: change.__name__.replace("_", " "))
def test_skip_logits_calls_a_head_that_does_more_than_multiply_by_its_weight(change, tiny_model):
    inputs = loss_inputs()
    found = []
    for skip_logits in (False, True):
        model = tiny_model(tie_word_embeddings=False)
        change(model)
        loss, grads = loss_and_gradients(model, **inputs, skip_logits=skip_logits)
        found.append((loss, grads))
        assert model(**inputs, skip_logits=skip_logits).loss.isfinite()
    (expected_loss, expected), (loss, actual) = found
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    assert_same_gradients(actual, expected)


def test_skip_logits_honours_another_ignore_index(tiny_model):
    model, inputs = tiny_model(), loss_inputs()
    inputs["labels"][0, 3:7] = 5
    expected = model(**inputs, ignore_index=5).loss
    assert expected != model(**inputs).loss
    torch.testing.assert_close(model(**inputs, ignore_index=5, skip_logits=True).loss, expected, **CLOSE)


def test_a_second_backward_through_a_kept_graph_gives_the_gradients_again(tiny_model):
    model, inputs = tiny_model(), loss_inputs(uneven=True)
    _, expected = loss_and_gradients(model, **inputs)
    model.zero_grad()
    loss = model(**inputs, skip_logits=True).loss
    (loss * 0.5).backward(retain_graph=True)
    (loss * 2).backward()
    assert_same_gradients(gradients(model), {name: gradient * 2.5 for name, gradient in expected.items()})


def test_second_derivatives_are_refused_not_wrong(tiny_model):
    model, inputs = tiny_model(), loss_inputs()
    loss = model(**inputs, skip_logits=True).loss
    with pytest.raises(RuntimeError, match="leave skip_logits out"):
        torch.autograd.grad(loss, model.model.norm.weight, create_graph=True)
    model.set_attn_implementation("eager")  # the fused kernel has no second derivatives either
    loss = model(**inputs).loss  # as the message advises
    (gradient,) = torch.autograd.grad(loss, model.model.norm.weight, create_graph=True)
    gradient.square().sum().backward()
    assert model.model.norm.weight.grad.abs().max() > 0


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bf16 weights"])
def test_skip_logits_is_as_near_to_the_exact_gradients_in_bf16_as_the_full_path(autocast, tiny_model, monkeypatch):
    monkeypatch.setattr(loss_gpt_scratch, "LOGITS_PER_CHUNK", 128 * 6)  # six chunks
    model, inputs = tiny_model(), loss_inputs(uneven=True)
    if not autocast:
        model.to(torch.bfloat16)
    reference = copy.deepcopy(model).float()  # of the rounded weights
    _, exact = loss_and_gradients(reference, **inputs)
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
        error, full_error = ((found[name].float() - gradient).norm() for found in (actual, expected))
        # Both round at the same places, but not the same sums: neither is the better one in every tensor.
        assert error <= 1.25 * full_error, name


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "fp16"])
def test_in_fp16_the_weights_gradient_of_many_rows_does_not_overflow(autocast):
    torch.manual_seed(0)
    # All rows push the same token's logit the same way: unscaled, they add up to 2,048 x 60 in one sum.
    hidden_states = torch.full((1, 2048, 32), 60.0) + torch.randn(1, 2048, 32)
    weight, labels = 0.01 * torch.randn(128, 32), torch.full((1, 2048), 5)
    loss_scale = 2.0**10
    exact_inputs = hidden_states.clone().requires_grad_(), weight.clone().requires_grad_()
    F.cross_entropy((exact_inputs[0] @ exact_inputs[1].T)[0], labels[0]).mul(loss_scale).backward()
    dtype = torch.float32 if autocast else torch.float16
    inputs = hidden_states.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        loss = chunked_causal_lm_loss(*inputs, shift_labels=labels)
    (loss * loss_scale).backward()
    for actual, exact in zip(inputs, exact_inputs, strict=True):
        # fp16 keeps 11 bits, and the logits' own rounding changes the probabilities by about as much.
        error = (actual.grad.float() - exact.grad).norm() / exact.grad.norm()
        assert error < 2**-8


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
