"""What a run's lines say about its speed."""

import resource
import signal
import types

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from training.record import read_metrics
from training.run import speed as run_speed
from training.run.monitor import RunMonitor
from training.run.speed import Speed


class Both:
    """Hands each event to the speed first and then to the monitor, as the library does."""

    def __init__(self, speed: Speed, monitor: RunMonitor):
        self.speed, self.monitor = speed, monitor

    def __getattr__(self, event: str):
        def call(*args, **kwargs):
            for callback in (self.speed, self.monitor):
                getattr(callback, event)(*args, **kwargs)

        return call


@pytest.fixture
def monitored(tmp_path, monkeypatch):
    """A run's monitor, the speed that it is told, and what the library passes to both."""
    monkeypatch.setattr(run_speed, "measured_peak", lambda device, dtype: 4000.0)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True)
    state, control = TrainerState(is_world_process_zero=True, max_steps=4), TrainerControl()
    speed = Speed(tmp_path, "tokens", step_size=10, flops_per_unit=200.0)
    figures = {"eval_loss": "nats per token", "eval_bits_per_byte": "bits per byte"}
    return Both(speed, RunMonitor(tmp_path, speed, figures)), args, state, control


def test_speed_is_that_of_training_and_not_of_what_comes_between(monitored, tmp_path, monkeypatch):
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(run_speed, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))
    monitor, args, state, control = monitored

    def train_to(step: int) -> None:
        while state.global_step < step:
            monitor.on_step_begin(args, state, control)
            clock.now += 2.0
            state.global_step += 1
            monitor.on_step_end(args, state, control)
        logs = {"loss": 1.0, "grad_norm": 1.0, **monitor.speed.since_last_line(step)}
        monitor.on_log(args, state, control, logs=logs)

    monitor.on_train_begin(args, state, control)
    train_to(2)
    clock.now += 30.0
    metrics = {"eval_loss": 1.0, "eval_bits_per_byte": 1.0, "eval_runtime": 30.0}
    monitor.on_log(args, state, control, logs=metrics)
    monitor.on_evaluate(args, state, control, metrics=metrics)
    clock.now += 7.0  # charts and a checkpoint
    train_to(4)

    first, _, second = read_metrics(tmp_path)
    for line in (first, second):
        assert line["tokens_per_second"] == 5.0
        assert line["mfu"] == pytest.approx(5.0 * 200 / 4000)
    assert second["elapsed_seconds"] == 4 * 2 + 30 + 7


def test_a_full_disk_costs_no_run_and_no_line_that_comes_after(monitored, tmp_path, caplog):
    monitor, args, state, control = monitored
    monitor.on_train_begin(args, state, control)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for step in range(1, 5):
            state.global_step = step
            # The second line fits by half.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100 if step in (2, 3) else limits[0], limits[1]))
            monitor.on_log(args, state, control, logs={"loss": float(step)})
            assert [line["step"] for line in read_metrics(tmp_path)] == ([1] if step < 4 else [1, 2, 3, 4])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert caplog.text.count("metrics.jsonl cannot be written, training goes on") == 1


def test_metrics_that_vanish_or_cannot_be_opened_end_no_run(monitored, tmp_path, caplog):
    monitor, args, state, control = monitored
    monitor.on_train_begin(args, state, control)
    (tmp_path / "metrics.jsonl").unlink()
    monitor.on_log(args, state, control, logs={"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 1
    (tmp_path / "metrics.jsonl").rename(tmp_path / "kept")
    (tmp_path / "metrics.jsonl").mkdir()
    monitor.on_log(args, state, control, logs={"loss": 2.0})
    (tmp_path / "metrics.jsonl").rmdir()
    (tmp_path / "kept").rename(tmp_path / "metrics.jsonl")
    monitor.on_train_end(args, state, control)  # what still waits is written
    assert [line["loss"] for line in read_metrics(tmp_path)] == [1.0, 2.0]
    assert "cannot be written, training goes on" in caplog.text
