"""Learning rates, step by step, against values computed by hand."""

import math

import pytest

from configuration.pretraining import PretrainingRecipe
from training.errors import InputError
from training.optimization.schedules import build_schedule, learning_rate_factor


def factors(kind, warmup_steps, total_steps, decay_steps, floor=0.0):
    return [
        learning_rate_factor(
            step,
            kind=kind,
            warmup_steps=warmup_steps,
            total_steps=total_steps,
            decay_steps=decay_steps,
            floor=floor,
        )
        for step in range(total_steps + 2)
    ]


def recipe(**overrides):
    minimal = {"model": "demo", "corpus": "stdlib", "tokens_per_step": "4096", "output_dir": "runs/x"}
    return PretrainingRecipe.load(None, minimal | {name: str(value) for name, value in overrides.items()})


def test_warm_up_stable_and_linear_decay():
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert factors("linear", 4, 10, 4) == pytest.approx(expected)


def test_cosine_to_a_floor():
    root = math.sqrt(0.5)
    expected = [0.5, 1, 1, 0.1 + 0.9 * (1 + root) / 2, 0.55, 0.1 + 0.9 * (1 - root) / 2, 0.1, 0.1]
    assert factors("cosine", 2, 6, 4, floor=0.1) == pytest.approx(expected)


def test_linear_decay_to_a_floor():
    assert factors("linear", 0, 4, 4, floor=0.2) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_constant_after_the_warm_up():
    assert factors("constant", 2, 4, 0) == [0.5, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_the_first_step_trains(kind):
    assert factors(kind, 3, 9, 6)[0] == pytest.approx(1 / 3)
    assert factors(kind, 0, 9, 9)[0] == 1


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_last_step_trains_though_the_floor_is_zero(kind):
    assert 0 < factors(kind, 1, 9, 8)[8] < 0.2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "linear"}, [1 - step / 20 for step in range(20)]),
        ({"schedule": "constant", "warmup_steps": 2}, [0.5] + [1.0] * 19),
        ({"schedule": "linear", "decay_steps": 5}, [1.0] * 16 + [0.8, 0.6, 0.4, 0.2]),
        ({"schedule": "linear", "decay_steps": 0.25}, [1.0] * 16 + [0.8, 0.6, 0.4, 0.2]),
        ({"schedule": "linear", "decay_steps": 0.21}, [1.0] * 16 + [0.8, 0.6, 0.4, 0.2]),
        ({"warmup_steps": 0.1, "decay_steps": 2}, [0.5, 1.0] + [1.0] * 17 + [0.5]),
        ({"decay_steps": 2, "learning_rate_floor": 0.5}, [1.0] * 19 + [0.75]),
        ({"schedule": "constant", "decay_steps": 5}, [1.0] * 20),
    ],
)
def test_a_recipe_gives_its_schedule(settings, expected):
    schedule = build_schedule(recipe(**settings), total_steps=20)
    assert [schedule(step) for step in range(20)] == pytest.approx(expected)


def test_the_blogs_schedule_warms_up_for_a_twentieth_and_ends_at_a_tenth():
    schedule = build_schedule(recipe(schedule="cosine", warmup_steps=0.05, learning_rate_floor=0.1), 33_165)
    warmup = math.ceil(33_165 * 0.05)
    assert schedule(0) == 1 / warmup
    assert schedule(warmup - 2) < schedule(warmup - 1) == schedule(warmup) == 1 > schedule(warmup + 1)
    assert schedule(33_164) == pytest.approx(0.1, abs=1e-7)


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0.1, 1), (3, 3)])
def test_a_run_may_be_nothing_but_a_warm_up(warmup_steps, total_steps):
    schedule = build_schedule(recipe(warmup_steps=warmup_steps), total_steps)
    # The scheduler asks for one step after the last.
    assert [schedule(step) for step in range(total_steps + 1)][-2:] == [1, 1]


def test_a_schedule_longer_than_its_run_is_refused():
    with pytest.raises(InputError, match=r"warmup_steps \(5\) and decay_steps \(8\) .* the 12 steps"):
        build_schedule(recipe(warmup_steps=5, decay_steps=8), total_steps=12)
    with pytest.raises(InputError, match=r"warmup_steps \(13\)"):
        build_schedule(recipe(warmup_steps=13), total_steps=12)


@pytest.mark.parametrize("decay_steps", ["0", "-3", "2.5"])
def test_a_decay_of_no_whole_number_of_steps_is_refused(decay_steps):
    with pytest.raises(ValueError, match=f"decay_steps is {decay_steps}.*a share below 1 or a number of steps"):
        recipe(decay_steps=decay_steps)
