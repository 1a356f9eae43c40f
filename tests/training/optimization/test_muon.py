"""Our Muon: step by step the weights of `torch.optim.Muon`, in the type that was asked for."""

import copy
import io
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import _muon as torch_muon
from torch.profiler import ProfilerActivity, profile

from training.optimization import muon
from training.optimization.muon import Muon, orthogonalize, stacks

ROOT = Path(__file__).parents[3]
# Several of one shape, square, tall and wide.
SHAPES = [(16, 16), (16, 16), (48, 16), (16, 48), (16, 16), (48, 16)]


def matrices(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def train(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        for parameter, gradient in zip(parameters, matrices(seed=1 + step), strict=True):
            parameter.grad = gradient.detach()
        optimizer.step()


def torch_orthogonalizes_in(dtype: torch.dtype, monkeypatch) -> None:
    """torch's own function, but for the type that it casts to."""

    class Wide(torch.Tensor):
        def bfloat16(self):
            return self.as_subclass(torch.Tensor).to(dtype, copy=True)

    original = torch_muon._zeropower_via_newtonschulz
    monkeypatch.setattr(
        torch_muon, "_zeropower_via_newtonschulz", lambda update, *rest: original(update.as_subclass(Wide), *rest)
    )


@pytest.mark.parametrize("adjust_lr_fn", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize(("nesterov", "weight_decay"), [(True, 0.0), (True, 0.1), (False, 0.1)])
def test_each_step_is_that_of_torch(adjust_lr_fn, nesterov, weight_decay, monkeypatch):
    torch_orthogonalizes_in(torch.float32, monkeypatch)
    settings = {"lr": 0.02, "adjust_lr_fn": adjust_lr_fn, "nesterov": nesterov, "weight_decay": weight_decay}
    ours, theirs = matrices(), matrices()
    optimizer, reference = Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for step in range(5):
        train(ours, optimizer, 1, start=step)
        train(theirs, reference, 1, start=step)
        for own, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(own, other, atol=1e-6, rtol=0)  # sums in another order
            assert torch.equal(optimizer.state[own]["momentum_buffer"], reference.state[other]["momentum_buffer"])


def test_coefficients_steps_and_momentum_are_torchs_too(monkeypatch):
    torch_orthogonalizes_in(torch.float32, monkeypatch)
    settings = {"momentum": 0.8, "ns_coefficients": (1.5, -0.5, 0.0), "ns_steps": 3, "eps": 1e-3}
    ours, theirs = matrices(), matrices()
    train(ours, Muon(ours, **settings), 3)
    train(theirs, torch.optim.Muon(theirs, **settings), 3)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=0)


def test_in_bf16_it_differs_from_torch_by_rounding_alone():
    ours, theirs, exact = matrices(), matrices(), matrices()
    train(ours, Muon(ours, lr=0.02, dtype=torch.bfloat16), 5)
    train(theirs, torch.optim.Muon(theirs, lr=0.02), 5)
    train(exact, Muon(exact, lr=0.02, dtype=torch.float64), 5)
    for own, other, best in zip(ours, theirs, exact, strict=True):
        # As near to torch's as torch's own rounding is to the exact step.
        assert (own - other).norm() <= (other - best).norm()
        assert not torch.equal(own, best)


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48), (1, 8)])
def test_fp32_is_exact_to_its_own_rounding(shape):
    stack = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    found, exact = orthogonalize(stack, torch.float32), orthogonalize(stack, torch.float64)
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=0)


def test_singular_values_come_near_one_and_vectors_stay():
    matrix = torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = matrix.clone()
    found = orthogonalize(matrix, torch.float64)[0]
    assert torch.equal(matrix, before)
    u, _, v = torch.linalg.svd(matrix[0], full_matrices=False)
    values = u.T @ found @ v.T
    assert ((values.diagonal() > 0.5) & (values.diagonal() < 1.5)).all()
    torch.testing.assert_close(values, torch.diag(values.diagonal()), atol=1e-10, rtol=0)


def test_a_gradient_of_zeros_changes_nothing():
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 8), torch.float32), torch.zeros(2, 4, 8))


def test_what_one_saves_the_other_loads():
    ours, theirs = matrices(), matrices()
    optimizer, reference = Muon(ours, lr=0.02), torch.optim.Muon(theirs, lr=0.02)
    train(ours, optimizer, 2)
    train(theirs, reference, 2)
    assert optimizer.state_dict()["param_groups"] == reference.state_dict()["param_groups"]
    assert optimizer.state_dict()["state"].keys() == reference.state_dict()["state"].keys()
    file = io.BytesIO()
    torch.save(reference.state_dict(), file)
    file.seek(0)
    loaded = Muon(ours, lr=1.0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert loaded.param_groups[0]["lr"] == 0.02
    for own, other in zip(ours, theirs, strict=True):
        assert torch.equal(loaded.state[own]["momentum_buffer"], reference.state[other]["momentum_buffer"])
    torch.optim.Muon(theirs).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_goes_on_bit_for_bit(dtype):
    whole, halted = matrices(), matrices()
    train(whole, Muon(whole, lr=0.02, dtype=dtype), 4)
    optimizer = Muon(halted, lr=0.02, dtype=dtype)
    train(halted, optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    restored = Muon(halted, lr=0.02, dtype=dtype)
    restored.load_state_dict(saved)
    train(halted, restored, 2, start=2)
    assert all(torch.equal(a, b) for a, b in zip(whole, halted, strict=True))


def test_one_shape_is_stacked_up_to_a_bound(monkeypatch):
    parameters = matrices()
    assert [len(stack) for stack in stacks(parameters)] == [3, 2, 1]
    monkeypatch.setattr(muon, "STACK_ELEMENTS", 2 * 16 * 16)
    # A matrix that is larger than the bound goes alone.
    assert [[tuple(p.shape) for p in stack] for stack in stacks(parameters)] == [
        *([(16, 16)] * 2, [(16, 16)]),
        *([(48, 16)], [(48, 16)], [(16, 48)]),
    ]


@pytest.mark.parametrize("shape", [(64, 64), (128, 32), (32, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_needs_no_more_memory_than_one_stack(shape, dtype, monkeypatch):
    monkeypatch.setattr(muon, "STACK_ELEMENTS", 4 * 64 * 64)
    parameters = [nn.Parameter(torch.randn(shape)) for _ in range(32)]
    for parameter in parameters:
        parameter.grad = torch.randn(shape)
    optimizer = Muon(parameters, dtype=dtype)
    optimizer.step()  # the momentum is there from now on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        optimizer.step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    peak = max(itertools.accumulate(changes))
    assert 8 * muon.STACK_ELEMENTS <= peak <= (muon.SCRATCH + 0.5) * muon.STACK_ELEMENTS  # and some norms


def test_stacks_change_speed_alone(monkeypatch):
    together, apart = matrices(), matrices()
    train(together, Muon(together, lr=0.02), 3)
    monkeypatch.setattr(muon, "STACK_ELEMENTS", 1)
    train(apart, Muon(apart, lr=0.02), 3)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_a_matrix_without_a_gradient_stays():
    parameters = matrices()
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = Muon(parameters, lr=0.02, weight_decay=0.1)
    parameters[1].grad = torch.ones_like(parameters[1])
    optimizer.step()
    assert [torch.equal(a, b) for a, b in zip(before, parameters, strict=True)] == [True, False, *[True] * 4]
    assert list(optimizer.state) == [parameters[1]]


def test_a_closure_is_evaluated_with_gradients():
    parameter = nn.Parameter(torch.eye(4))

    def closure():
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert Muon([parameter], lr=0.1).step(closure).item() == 4
    assert not torch.equal(parameter, torch.eye(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr is -1.0, but must not be negative"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"momentum": float("nan")}, "momentum is nan"),
        ({"adjust_lr_fn": "match"}, "adjust_lr_fn is 'match', but must be one of original, match_rms_adamw"),
        ({"params": [nn.Parameter(torch.zeros(4))]}, r"a parameter has shape \(4,\), but Muon trains matrices only"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Muon(**{"params": matrices(), **settings})


SHARDED = """
import sys
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from training.optimization.muon import Muon

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)


def network():
    torch.manual_seed(0)
    # 7 rows do not part evenly, and of 1 row a process holds nothing.
    sizes = [(8, 16), (16, 7), (7, 8), (8, 16), (16, 1)]
    return nn.Sequential(*(nn.Linear(*size, bias=False) for size in sizes))


def train(model, dtype):
    optimizer = Muon(model.parameters(), lr=0.02, dtype=dtype)
    inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


for dtype in (torch.float32, torch.bfloat16):
    whole, sharded = network(), network()
    for layer in sharded:
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    train(whole, dtype)
    optimizer = train(sharded, dtype)
    assert all(isinstance(state["momentum_buffer"], DTensor) for state in optimizer.state.values())
    for name, parameter in whole.named_parameters():
        found = sharded.get_parameter(name)
        assert isinstance(found, DTensor)
        torch.testing.assert_close(found.full_tensor(), parameter, atol=1e-6, rtol=0)
torch.distributed.destroy_process_group()
print("equal")
"""


@pytest.mark.slow
def test_shards_on_two_processes_train_as_the_whole(tmp_path):
    words = [sys.executable, "-c", SHARDED]
    processes = [
        subprocess.Popen(
            [*words, str(rank), str(tmp_path / "store")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            printed, errors = process.communicate(timeout=120)
            assert printed.splitlines()[-1:] == ["equal"], errors
    finally:
        for process in processes:
            process.kill()
