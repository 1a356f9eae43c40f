"""Two optimizers behind one face: the same steps as each by itself."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from training.optimization.muon import Muon
from training.optimization.optimizers import MuonWithAuxiliary


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))


def split(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    matrices = [parameter for parameter in module.parameters() if parameter.ndim == 2]
    return matrices, [parameter for parameter in module.parameters() if parameter.ndim != 2]


def together(module: nn.Module) -> MuonWithAuxiliary:
    matrices, others = split(module)
    return MuonWithAuxiliary(Muon(matrices, lr=0.02, weight_decay=0.1), AdamW(others, lr=0.01, weight_decay=0.0))


def train(module: nn.Module, optimizers: list, schedulers: list, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        module(torch.randn(4, 8, generator=generator)).square().sum().backward()
        for part in (*optimizers, *schedulers):
            part.step()
        for optimizer in optimizers:
            optimizer.zero_grad()


def halved(optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 0.5**step)


def test_steps_and_schedules_equal_the_two_optimizers_by_themselves():
    one, two = network(), network()
    optimizer = together(one)
    train(one, [optimizer], [halved(optimizer)], 5)
    matrices, others = split(two)
    parts = [Muon(matrices, lr=0.02, weight_decay=0.1), AdamW(others, lr=0.01, weight_decay=0.0)]
    train(two, parts, [halved(part) for part in parts], 5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_saved_state_continues_as_if_nothing_had_happened():
    module = network()
    optimizer = together(module)
    train(module, [optimizer], [], 3)
    restored_module = copy.deepcopy(module)
    restored = together(restored_module)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(module, [optimizer], [], 3)
    train(restored_module, [restored], [], 3)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), restored_module.parameters(), strict=True))


def test_state_and_schedule_survive_a_file_bit_for_bit(tmp_path):
    module = network()
    optimizer = together(module)
    schedule = halved(optimizer)
    train(module, [optimizer], [schedule], 3)
    torch.save([part.state_dict() for part in (module, optimizer, schedule)], tmp_path / "state.pt")
    restored_module = network()
    restored = together(restored_module)
    restored_schedule = halved(restored)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    for part, state in zip((restored_module, restored, restored_schedule), saved, strict=True):
        part.load_state_dict(state)
    assert [group["lr"] for group in restored.param_groups] == [0.02 / 8, 0.01 / 8]
    train(module, [optimizer], [schedule], 2)
    train(restored_module, [restored], [restored_schedule], 2)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), restored_module.parameters(), strict=True))
    assert [group["lr"] for group in restored.param_groups] == [0.02 / 32, 0.01 / 32]


def test_accelerate_prepares_it_as_any_other():
    plain, module = network(), network()
    plain_optimizer = together(plain)
    train(plain, [plain_optimizer], [halved(plain_optimizer)], 3)
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(module, together(module))
    train(prepared, [optimizer], [halved(optimizer)], 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [group["lr"] for group in optimizer.param_groups] == [0.02 / 4, 0.01 / 4]
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(4, 8, generator=generator) for _ in range(3)][-1]
    accelerator.backward(prepared(inputs).square().sum())
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), module.parameters(), strict=True))


def test_parts_share_groups_and_state():
    optimizer = together(network())
    assert [group for part in optimizer.parts for group in part.param_groups] == optimizer.param_groups
    for part in optimizer.parts:
        assert part.state is optimizer.state
        assert all(any(group is own for own in optimizer.param_groups) for group in part.param_groups)


def test_state_dict_has_the_standard_form():
    module = network()
    optimizer = together(module)
    train(module, [optimizer], [], 1)
    state = optimizer.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3]]
    assert set(state["state"]) == {0, 1, 2, 3}
    assert "momentum_buffer" in state["state"][0]
    assert "exp_avg_sq" in state["state"][2]


def test_a_closure_is_evaluated_with_gradients():
    module = network()
    optimizer = together(module)
    before = [parameter.clone() for parameter in module.parameters()]

    def closure():
        loss = module(torch.ones(2, 8)).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(network()(torch.ones(2, 8)).square().sum().item())
    assert all(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
