"""Which type of number a device multiplies fast, and what follows from it."""

import pytest
import torch

from configuration.pretraining import PretrainingRecipe
from training.optimization import precision
from training.optimization.matmul import matmul_rates
from training.optimization.precision import choose_muon_dtype, slow_precision

CPU = torch.device("cpu")


def recipe(**settings):
    fields = {"model": "demo", "corpus": "x", "output_dir": "x", "tokens_per_step": 256, "muon_learning_rate": 0.02}
    return PretrainingRecipe.load(None, {name: str(value) for name, value in {**fields, **settings}.items()})


@pytest.fixture
def device(monkeypatch):
    """Sets the rates, in GFLOP/s, of the device that is timed; returns what was asked of it."""
    asked = []

    def set_rates(fp32: float, bf16: float) -> list:
        def rates(device, dtypes, width):
            asked.append((device, width))
            return {dtype: 1e9 * {torch.float32: fp32, torch.bfloat16: bf16}[dtype] for dtype in dtypes}

        monkeypatch.setattr(precision, "matmul_rates", rates)
        return asked

    return set_rates


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"),
    [(70, 2, "fp32"), (70, 69, "fp32"), (70, 80, "fp32"), (70, 140, "bf16"), (60_000, 700_000, "bf16")],
)
def test_muon_orthogonalises_in_bf16_only_where_that_is_clearly_faster(fp32, bf16, chosen, device):
    asked = device(fp32, bf16)
    assert choose_muon_dtype(recipe(), CPU, recorded=None) == chosen
    assert asked == [(CPU, 256)]  # the model's own width


@pytest.mark.parametrize("recorded", ["fp32", "bf16"])
def test_a_recorded_choice_wins_and_nothing_is_timed(recorded, device):
    asked = device(70, 140)
    assert choose_muon_dtype(recipe(), CPU, recorded) == recorded
    assert asked == []


def test_without_muon_there_is_nothing_to_choose(device):
    asked = device(70, 140)
    assert choose_muon_dtype(recipe(muon_learning_rate="null"), CPU, recorded=None) is None
    assert asked == []


def test_a_slow_bf16_is_named_with_both_measured_rates(device):
    device(70, 12.3)
    assert slow_precision(recipe(precision="bf16"), CPU) == (
        "precision is bf16, but this device multiplies 12.3 GFLOP/s in bf16 and 70 in fp32: fp32 is faster"
    )


def test_a_precision_that_is_fast_or_full_is_not_spoken_of(device):
    asked = device(70, 140)
    assert slow_precision(recipe(precision="bf16"), CPU) is None
    assert len(asked) == 1
    assert slow_precision(recipe(precision="fp32"), CPU) is None
    assert len(asked) == 1


def test_rates_are_measured_of_each_type_without_touching_the_random_state():
    before = torch.get_rng_state()
    rates = matmul_rates(CPU, (torch.float32, torch.bfloat16), 32, seconds=0)
    assert rates.keys() == {torch.float32, torch.bfloat16}
    assert all(1e4 < rate < 1e15 for rate in rates.values())
    assert torch.equal(torch.get_rng_state(), before)
