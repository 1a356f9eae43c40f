"""What a run survives: kills, full disks, numbers that are none, signals, and a second command."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks import faults
from configuration.pretraining import PretrainingRecipe
from training.__main__ import main
from training.data.work_folder import work_on
from training.record import read_metrics
from training.run.checkpoints import manifest_of
from training.run.folder import RunFolder
from training.run.interruption import StopRequest, lasting_output
from training.run.trainer import ReliableTrainer

ROOT = Path(__file__).parents[3]
HAS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


@pytest.fixture
def argv(tmp_path):
    """The command line of a tiny run with dropout; options can be overridden."""
    faults.write_corpus(tmp_path / "corpus")

    def build(processes: int = 1, **options) -> list[str]:
        words = faults.command(tmp_path, "run", processes=processes, workers=0, steps=24)
        for name, value in options.items():
            words += [f"--{name}", str(value)]
        return words

    return build


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def calm_ending(argv: list[str], tmp_path: Path) -> tuple:
    """How the same run ends when nothing happens to it."""
    assert main([*argv, "--output_dir", str(tmp_path / "calm")]) == 0
    return faults.ending(tmp_path / "calm")


# Kills


def fault_run(*arguments: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.faults", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1])


@HAS_FORK
@pytest.mark.parametrize(("processes", "kills"), [("1", "6"), ("2", "4")])
def test_a_killed_run_ends_bit_for_bit_like_an_undisturbed_one(processes, kills):
    figures = fault_run("--kills", kills, "--processes", processes, "--seed", "1")
    assert figures["kills"] >= int(kills) - 1  # the run may end before the last one
    assert figures["while saving"] >= 1
    assert figures["lines compared"] >= 8


@HAS_FORK
@pytest.mark.slow
@pytest.mark.parametrize(("processes", "name"), [("1", "INT"), ("2", "TERM")])
def test_a_run_that_is_asked_to_stop_ends_bit_for_bit_like_an_undisturbed_one(processes, name):
    figures = fault_run("--kills", "2", "--steps", "60", "--signal", name, "--processes", processes)
    assert figures["kills"] == 2
    assert figures["resumed"] == figures["kills"]


# Checkpoints


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(argv, tmp_path, capsys):
    expected = calm_ending(argv(), tmp_path)
    assert main(argv()) == 0
    run = tmp_path / "run"
    (run / "model").rename(tmp_path / "model")
    optimizer = run / "checkpoint-24" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    capsys.readouterr()
    assert main(argv()) == 0
    shown = capsys.readouterr()
    assert re.search(r"checkpoint-24 is set aside as set-aside-checkpoint-24-1: optimizer\.pt has .* bytes", shown.err)
    assert "resumed from checkpoint-21" in shown.out
    assert faults.ending(run) == expected


def test_no_whole_checkpoint_is_an_error_and_no_fresh_start(argv, tmp_path, capsys):
    assert main(argv()) == 0
    run = tmp_path / "run"
    (run / "model").rename(tmp_path / "model")
    for checkpoint in run.glob("checkpoint-*"):
        (checkpoint / "scheduler.pt").unlink()
    before = (run / "metrics.jsonl").read_text()
    assert main(argv()) == 2
    assert "has no checkpoint to go on from" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_text() == before


def test_resume_names_a_checkpoint_or_refuses_any(argv, tmp_path, capsys):
    expected = calm_ending(argv(), tmp_path)
    assert main(argv()) == 0
    run = tmp_path / "run"
    (run / "model").rename(tmp_path / "model")
    assert main([*argv(), "--resume", "never"]) == 2
    assert "--resume is never" in capsys.readouterr().err
    assert main([*argv(), "--resume", str(run / "checkpoint-99")]) == 2
    assert "checkpoint-99 cannot be used: it is no folder" in capsys.readouterr().err
    copy = shutil.copytree(run / "checkpoint-14", tmp_path / "a copy")
    assert main([*argv(), "--resume", str(copy)]) == 0
    assert "checkpoint-21 is set aside as" in capsys.readouterr().err
    assert faults.ending(run) == expected


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(argv, tmp_path, caplog):
    expected = calm_ending(argv(), tmp_path)
    run = tmp_path / "run"
    publish = ReliableTrainer._save_checkpoint

    def with_little_space(trainer, model, trial):
        """From the first checkpoint's weights on, no file of its may grow beyond 64 KiB: they are 145 KiB large."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if trainer.state.global_step == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
        try:
            publish(trainer, model, trial)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if trainer.state.global_step == 7:
            assert not list(run.glob("*checkpoint*"))
            assert not (run / ".saving").exists()

    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ReliableTrainer, "_save_checkpoint", with_little_space)
            assert main(argv()) == 0
    finally:
        signal.signal(signal.SIGXFSZ, previous)
    assert caplog.text.count("checkpoint-7 could not be saved, training goes on") == 1
    assert {path.name for path in run.glob("*checkpoint*")} == {"checkpoint-14", "checkpoint-21", "checkpoint-24"}
    assert faults.ending(run) == expected


# Numbers that are none


def poison(monkeypatch, steps: set[int]) -> None:
    """Makes the second micro-batch of these steps give a gradient that is not a number."""
    training_step = ReliableTrainer.training_step
    calls = []

    def poisoned(trainer, model, inputs, *rest):
        loss = training_step(trainer, model, inputs, *rest)
        calls.append(1)
        if trainer.state.global_step + 1 in steps and len(calls) % 2 == 0:
            next(model.parameters()).grad[3, 5] = torch.nan
            loss = loss * torch.nan
        return loss

    monkeypatch.setattr(ReliableTrainer, "training_step", poisoned)


def test_a_gradient_that_is_no_number_stops_the_run_before_it_changes_a_weight(argv, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch, {17})
        assert main(argv()) == 1
    errors = capsys.readouterr().err
    assert "training broke down in step 17: the gradient norm is nan; no weight was changed by it" in errors
    assert "the last checkpoint is checkpoint-14" in errors
    assert not (tmp_path / "run" / "model").exists()
    assert main(argv()) == 0  # without the poison, from there
    assert "resumed from checkpoint-14" in capsys.readouterr().out


def test_such_steps_can_be_left_out_so_many_in_a_row(argv, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch, {3, 4, 10})
        assert main(argv(max_skipped_steps=2, logging_steps=1)) == 0
    lines = [line for line in read_metrics(tmp_path / "run") if "learning_rate" in line]
    assert [line["step"] for line in lines] == [step for step in range(1, 25) if step not in (3, 4, 10)]
    assert [line["skipped_steps"] for line in lines][:4] == [0, 0, 2, 2]
    assert lines[-1]["skipped_steps"] == 3
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())
    with monkeypatch.context() as patch:
        poison(patch, {3, 4, 5})
        assert main(argv(max_skipped_steps=2, output_dir=tmp_path / "other")) == 1
    assert "broke down in step 5" in capsys.readouterr().err


@pytest.fixture
def fp16(monkeypatch):
    """Runs with `precision: fp16` on the CPU: real autocast and a real scaler, which nobody offers for CPUs. Its scale
    begins high, so that the first steps overflow."""
    scalers = []
    accelerator_init = Accelerator.__init__

    def init(accelerator, *args, **options):
        accelerator_init(accelerator, *args, **options)
        assert accelerator.mixed_precision == "fp16"
        accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=2.0**24), True
        scalers.append(accelerator.scaler)

    monkeypatch.setattr(Accelerator, "__init__", init)
    monkeypatch.setattr("training.run.lifecycle.precision_arguments", lambda precision: {"fp16": True, "use_cpu": True})
    # CPUs take seconds for a large product in fp16.
    monkeypatch.setattr("training.run.lifecycle.slow_precision", lambda recipe, device: None)
    monkeypatch.setattr("training.run.speed.measured_peak", lambda device, dtype: 1e9)
    return scalers


@pytest.mark.parametrize("muon_learning_rate", ["0.02", "null"])  # fused AdamW alone leaves steps out by itself
def test_fp16_overflows_are_left_out_counted_and_gone_on_from(fp16, muon_learning_rate, argv, tmp_path, monkeypatch):
    command = argv(precision="fp16", logging_steps=1, muon_learning_rate=muon_learning_rate)
    expected = calm_ending(command, tmp_path)
    (scaler,) = fp16
    lines = [line for line in read_metrics(tmp_path / "calm") if "learning_rate" in line]
    overflows = lines[-1]["skipped_steps"]
    assert 1 <= overflows < 20
    assert scaler.get_scale() == 2.0 ** (24 - overflows)
    assert len(lines) == 24 - overflows  # a step that was left out has no line
    assert "scaler.pt" in manifest_of(tmp_path / "calm" / "checkpoint-24")["files"]
    model, found = AutoModelForCausalLM.from_pretrained(tmp_path / "calm" / "model", output_loading_info=True)
    assert not any(found.values())
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())

    training_step, steps = ReliableTrainer.training_step, []

    def interrupt(trainer, *rest):
        steps.append(trainer.state.global_step)
        if steps[-1] == 10:
            raise KeyboardInterrupt
        return training_step(trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ReliableTrainer, "training_step", interrupt)
        assert main(command) == 130
    assert main(command) == 0
    assert fp16[-1].get_scale() == scaler.get_scale()  # of the checkpoint, not begun anew
    assert faults.ending(tmp_path / "run") == expected


def test_fp16_that_only_overflows_ends_the_run_and_says_so(fp16, argv, tmp_path, capsys, monkeypatch):
    poison(monkeypatch, set(range(1, 25)))
    assert main(argv(precision="fp16")) == 1
    errors = capsys.readouterr().err
    assert re.search(
        r"training broke down in step 21: the gradient norm is nan in 21 steps in a row, though the", errors
    )
    assert "the last checkpoint is checkpoint-14" in errors


def test_a_step_that_is_left_out_changes_no_weight(argv, tmp_path, monkeypatch):
    seen = []
    step_end = ReliableTrainer._get_grad_norm

    def remember(trainer, *arguments, **options):
        seen.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
        return step_end(trainer, *arguments, **options)

    poison(monkeypatch, {5})
    monkeypatch.setattr(ReliableTrainer, "_get_grad_norm", remember)
    assert main(argv(max_skipped_steps=1, weight_decay=0.1)) == 0
    assert all(torch.equal(tensor, seen[5][name]) for name, tensor in seen[4].items())  # before steps 5 and 6
    assert not torch.equal(seen[5]["model.norm.weight"], seen[6]["model.norm.weight"])


# Signals


def signalled(argv: list[str], tmp_path: Path, processes: int, number: int, when: str) -> list[int]:
    """Exit codes of a run of which one process got a signal, at a step or in an evaluation."""
    run = tmp_path / "run"
    children = faults.start(argv, processes, tmp_path / "log.txt")

    def reached() -> bool:
        return any(when in line and line["step"] >= 5 for line in read_metrics(run))

    assert faults.wait_until(reached, children, 60), (tmp_path / "log.txt").read_text()[-2000:]
    os.kill(children[-1], number)
    return faults.wait(children)


SIGNALS = """
import os, sys
from pathlib import Path
from tests.training.run.test_faults import signalled
workplace = Path(sys.argv[1])
print(signalled(sys.argv[4:], workplace, int(sys.argv[2]), int(sys.argv[3]), "loss"))
"""


def listen_to_terminals() -> None:
    """What a shell starts in the background ignores SIGINT, and under nohup SIGHUP; it would hand that down."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@HAS_FORK
@pytest.mark.parametrize(("number", "processes"), [(signal.SIGHUP, 1), (signal.SIGTERM, 2), (signal.SIGINT, 2)])
def test_a_signal_to_one_process_saves_the_step_and_ends_all(number, processes, argv, tmp_path):
    command = argv(processes, max_steps=3000, decay_steps=10)
    arguments = [str(tmp_path), str(processes), str(int(number)), *command]
    finished = subprocess.run(
        [sys.executable, "-c", SIGNALS, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        preexec_fn=listen_to_terminals,
    )
    log = (tmp_path / "log.txt").read_text()
    assert finished.stdout.splitlines()[-1:] == [str([128 + number] * processes)], finished.stderr + log[-2000:]
    (name,) = re.findall(r"the same command goes on from (checkpoint-\d+)\n", log)
    newest = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert newest.name == name
    assert "Traceback" not in log


@pytest.mark.parametrize("evaluation", [1, 2, 3])
def test_a_stop_during_an_evaluation_is_made_up_for(evaluation, argv, tmp_path, monkeypatch, capsys):
    command = argv(per_device_eval_batch_size=1)
    expected = calm_ending(command, tmp_path)
    predicted = []

    def interrupt(handler, *rest):
        predicted.append(1)
        if len(predicted) == 3 + 9 * (evaluation - 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return rest[-1]

    with monkeypatch.context() as patch:
        patch.setattr("transformers.trainer_callback.CallbackHandler.on_prediction_step", interrupt)
        assert main(command) == 143
    assert "the same command goes on from checkpoint-" in capsys.readouterr().err
    assert main(command) == 0
    assert faults.ending(tmp_path / "run") == expected


def test_under_nohup_a_closed_terminal_is_no_reason_to_stop():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            stop.raise_if_asked()
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_that_nobody_reads_any_more_is_no_reason_to_stop(name, monkeypatch):
    reader, writer = os.pipe()
    with open(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, name, stream)
        with lasting_output():
            print("seen", file=getattr(sys, name), flush=True)
            assert os.read(reader, 10) == b"seen\n"
            os.close(reader)
            for _ in range(3):
                print("unseen", file=getattr(sys, name), flush=True)
            assert main(["--help" if name == "stdout" else "nonsense"]) == (0 if name == "stdout" else 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="stands for a full disk")
def test_a_program_outlives_output_that_is_closed_or_on_a_full_disk():
    words = f"{sys.executable} -m training --help"
    for redirection in (">&-", "2>&-", ">/dev/full", "2>/dev/full"):
        finished = subprocess.run(["sh", "-c", f"{words} {redirection}"], cwd=ROOT, capture_output=True, check=False)
        assert finished.returncode == 0, (redirection, finished.stderr)


# Another command, another recipe


def test_a_second_command_is_refused_while_the_first_lives(argv, tmp_path, capsys):
    command = argv(max_steps=3000, decay_steps=10)
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "run.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert main(command) == 2
        assert "is in use by another command" in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    assert main([*command, "--allow_changed", "horizon", "--max_steps", "60"]) == 0


def hold_run(place: Path):
    recipe = PretrainingRecipe.load(
        None, {"model": "demo", "corpus": "x", "tokens_per_step": "2048", "output_dir": str(place)}
    )
    return RunFolder(recipe).lock()


@HAS_FORK
@pytest.mark.parametrize("hold", [hold_run, lambda place: work_on(place, say=pytest.fail)], ids=["run", "data"])
def test_a_lock_ends_with_its_process_though_a_worker_of_it_lives_on(hold, tmp_path):
    ready, end = os.pipe(), os.pipe()
    parent = os.fork()
    if not parent:
        with hold(tmp_path / "place"):
            (tmp_path / "place.txt").write_text("something, so that the folder is not taken back")
            if os.fork():
                os.write(ready[1], b"!")
                signal.pause()
            os.close(end[1])
            os.read(end[0], 1)  # the worker lives until the test has ended
            os._exit(0)
    try:
        os.read(ready[0], 1)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with hold(tmp_path / "place"):
            pass
    finally:
        os.close(end[1])


@pytest.mark.parametrize(
    ("options", "group"),
    [
        ({"tokens_per_step": 512}, "batch"),
        ({"per_device_train_batch_size": 2}, "batch"),
        ({"max_steps": 30}, "horizon"),
        ({"learning_rate": 2e-3}, "horizon"),
        ({"shuffle": False}, "data"),
        ({"save_steps": 5}, "other"),
    ],
)
def test_changes_are_refused_by_name_with_the_flag_that_allows_them(options, group, argv, tmp_path, capsys):
    assert main(argv()) == 0
    (tmp_path / "run" / "model").rename(tmp_path / "model")
    capsys.readouterr()
    assert main(argv(**options)) == 2
    errors = capsys.readouterr().err
    (name,) = options
    assert f"belongs to a run with another {group} ({name} was" in errors
    assert f"--allow_changed {group}" in errors
    assert main([*argv(**options), "--allow_changed", group]) == 0


def test_another_model_is_never_allowed(argv, tmp_path, capsys):
    assert main(argv()) == 0
    assert main([*argv(hidden_size=64), "--allow_changed", "other,horizon"]) == 2
    errors = capsys.readouterr().err
    assert "another model (hidden_size was 32, now 64" in errors
    assert "--allow_changed" not in errors


# The order of the data


ORDER = """
import os, sys
from pathlib import Path
from benchmarks import faults
from configuration.pretraining import PretrainingRecipe
from training.record import read_metrics
from training.run.trainer import ReliableTrainer
from training.run.folder import RunFolder
from training.data.work_folder import work_on

workplace, processes, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
training_step = ReliableTrainer.training_step
name = "calm"


def note(trainer, model, inputs, *rest):
    with (workplace / f"{name}-{os.environ.get('RANK', '0')}.txt").open("a") as stream:
        print(trainer.state.global_step, inputs["input_ids"].tolist(), file=stream)
    return training_step(trainer, model, inputs, *rest)


ReliableTrainer.training_step = note
log = workplace / "log.txt"
command = faults.command(workplace, name, processes, workers, 60)
assert faults.wait(faults.start(command, processes, log)) == [0] * processes, log.read_text()[-2000:]
name = "stopped"
command = faults.command(workplace, name, processes, workers, 60)
children = faults.start(command, processes, log)
assert faults.wait_until(lambda: len(read_metrics(workplace / name)) >= 3, children, 60)
os.kill(children[0], 15)
assert faults.wait(children) == [143] * processes, log.read_text()[-2000:]
assert faults.wait(faults.start(command, processes, log)) == [0] * processes, log.read_text()[-2000:]
"""


@HAS_FORK
@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (2, 0)])
def test_the_data_come_in_the_same_order_after_a_stop(processes, workers, tmp_path):
    faults.write_corpus(tmp_path / "corpus")
    arguments = [str(tmp_path), str(processes), str(workers)]
    finished = subprocess.run(
        [sys.executable, "-c", ORDER, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    for rank in range(processes):
        calm, stopped = ((tmp_path / f"{name}-{rank}.txt").read_text().splitlines() for name in ("calm", "stopped"))
        assert len(calm) == 60 * 2
        assert stopped == calm
    if processes == 2:
        assert (tmp_path / "calm-0.txt").read_text() != (tmp_path / "calm-1.txt").read_text()
