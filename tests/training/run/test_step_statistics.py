"""What a training line says about the steps since the one before."""

import json

import pytest
import torch

from training.run.step_statistics import StepStatistics

CPU = torch.device("cpu")


def alone(vector: torch.Tensor) -> torch.Tensor:
    return vector


def test_a_step_is_the_sum_of_its_micro_batches_and_a_summary_forgets():
    statistics = StepStatistics(max_grad_norm=1.0)
    for losses, norm in (((1.0, 2.0), 0.5), ((0.5, 0.5), 1.5), ((2.0, 3.0), 1.0)):
        for loss in losses:
            statistics.add_micro_batch(torch.tensor(loss))
        statistics.end_step(norm)
    assert statistics.summary(alone, CPU) == {
        "loss": 3.0,
        "loss_min": 1.0,
        "loss_max": 5.0,
        "grad_norm_max": 1.5,
        "clipped": pytest.approx(1 / 3),
    }
    assert statistics.summary(alone, CPU) == {}


def test_losses_are_averaged_over_processes_before_the_lowest_and_highest_are_taken():
    statistics = StepStatistics(max_grad_norm=1.0)
    for loss in (1.0, 2.0):
        statistics.add_micro_batch(loss)
        statistics.end_step(0.1)
    # The other process saw 5 and 0: the steps' means are 3 and 1.
    figures = statistics.summary(lambda mine: torch.cat([mine, torch.tensor([5.0, 0.0])]), CPU)
    assert (figures["loss"], figures["loss_min"], figures["loss_max"]) == (2.0, 1.0, 3.0)


def test_nothing_is_said_about_clipping_where_there_is_none():
    statistics = StepStatistics(max_grad_norm=0)
    statistics.add_micro_batch(1.0)
    statistics.end_step(7.0)
    assert statistics.summary(alone, CPU) == {"loss": 1.0, "loss_min": 1.0, "loss_max": 1.0, "grad_norm_max": 7.0}


def test_pending_steps_go_through_a_checkpoint_exactly():
    numbers = torch.rand(6, generator=torch.Generator().manual_seed(0)) / 3

    def pass_on(statistics: StepStatistics) -> StepStatistics:
        resumed = StepStatistics(max_grad_norm=0.1)
        resumed.load_state(json.loads(json.dumps(statistics.state())))
        return resumed

    results = []
    for is_interrupted in (False, True):
        statistics = StepStatistics(max_grad_norm=0.1)
        for number in numbers:
            statistics.add_micro_batch(number)
            statistics.end_step(float(number) / 7)
            statistics = pass_on(statistics) if is_interrupted else statistics
        results.append(statistics.summary(alone, CPU))
    assert results[0] == results[1]
    assert results[0]["loss_max"] == numbers.max().item()
