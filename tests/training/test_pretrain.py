"""`python -m training pretrain`, from the command line to the finished folder."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Trainer

from configuration.pretraining import PretrainingRecipe
from modeling_gpt_scratch import durable
from training.__main__ import main
from training.files import weights_sha256
from training.record import read_metrics
from training.run import folder as run_folder
from training.run.folder import RunFolder
from training.run.monitor import TRAINING_FIGURES, RunMonitor
from training.run.window_trainer import GPTScratchTrainer

ROOT = Path(__file__).parents[2]
RECORDS = ("recipe.yaml", "run.json", "metrics.jsonl", ".lock")


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(f"Line {number} of a text that says the same again.\n" * 20)
    return folder


@pytest.fixture
def command(texts, tmp_path):
    """The command line of a tiny run with dropout; options can be overridden, or left out with `None`."""

    def build(**options) -> list[str]:
        values = {
            "model": "demo",
            "corpus": texts,
            "tokens_per_step": 128,
            "output_dir": tmp_path / "run",
            "data_dir": tmp_path / "data",
            "vocab_size": 300,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "max_position_embeddings": 32,
            "residual_dropout": 0.1,
            "per_device_train_batch_size": 2,
            "max_steps": 12,
            "learning_rate": "1e-2",
            "muon_learning_rate": 0.02,
            "eval_on_start": True,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "logging_steps": 2,
            "save_steps": 4,
            "disable_tqdm": True,
        } | options
        return [
            "pretrain",
            *(text for name, value in values.items() if value is not None for text in (f"--{name}", str(value))),
        ]

    return build


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def without_times(run: Path) -> list[dict]:
    timed = ("elapsed_seconds", "tokens_per_second", "mfu", "eval_runtime")
    return [{name: value for name, value in line.items() if name not in timed} for line in read_metrics(run)]


def test_a_run_leaves_records_charts_checkpoints_and_a_model_that_opens(command, tmp_path, capsys):
    assert main(command()) == 0
    run = tmp_path / "run"
    expected = {*RECORDS, "loss.png", "gradient_norm.png", "learning_rate.png", "speed.png", "model"}
    assert {path.name for path in run.iterdir()} == expected | {"checkpoint-4", "checkpoint-8", "checkpoint-12"}
    assert all((run / name).read_bytes().startswith(b"\x89PNG") for name in expected if name.endswith(".png"))

    lines = read_metrics(run)
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "eval_loss" in line] == [0, 4, 8, 12]
    assert all(line["tokens"] == 128 * line["step"] for line in lines)
    assert lines[1].keys() == {"step", "tokens", "elapsed_seconds", *TRAINING_FIGURES} - {"skipped_steps"}
    assert lines[1]["loss_min"] < lines[1]["loss"] < lines[1]["loss_max"]

    record = json.loads((run / "run.json").read_text())
    result = record["result"]
    assert result["eval_loss"] < result["initial"]["eval_loss"] - 0.5
    assert (result["tokens"], result["steps"]) == (12 * 128, 12)
    assert {"python", "torch", "transformers"} <= record["versions"].keys()
    sizes = {"parameters": result["parameters"], "steps": 12, "tokens": 12 * 128}
    assert record["planned"].pop("muon_dtype") in ("fp32", "bf16")  # what this machine multiplies faster
    assert record["planned"] == sizes | {"micro_batch": 2}
    assert result["peak_flops"] > 0
    assert 0 < result["mfu"] < 1

    model = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert (model.config.eos_token_id, model.config.pad_token_id) == (0, 1)
    assert (model.config.use_cache, model.generation_config.max_length, tokenizer.model_max_length) == (True, 32, 32)
    assert model.config.residual_dropout == 0.1
    assert (run / "checkpoint-12" / "modeling_gpt_scratch.py").exists()
    assert yaml.safe_load((run / "recipe.yaml").read_text())["adam_beta1"] == 0.9

    printed = capsys.readouterr().out
    assert f"validation: {result['initial']['eval_loss']:.4f} -> {result['eval_loss']:.4f} nats per token" in printed
    assert "bits per byte" in printed


def test_records_hold_no_path_or_name_of_this_machine(texts, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command(max_steps=2)) == 0  # told in absolute paths
    records = [Path("run", name) for name in RECORDS] + list(Path("data").glob("*/manifest.json"))
    assert len(records) == 5
    for name in (str(tmp_path), str(texts), str(ROOT), os.uname().nodename):
        assert not any(name in record.read_text() for record in records)


def test_finished_run_shows_its_result_and_trains_no_more(command, tmp_path, capsys, monkeypatch):
    assert main(command(max_steps=2)) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(Trainer, "train", None)
    assert main(command(max_steps=2)) == 0
    again = capsys.readouterr().out
    assert f"{tmp_path / 'run'} is finished" in again
    assert first.splitlines()[-4:] == again.splitlines()[-4:]


def test_interrupted_run_goes_on_to_the_very_same_end(command, tmp_path, capsys, monkeypatch):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    assert main(command(output_dir=whole)) == 0

    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        assert main(command(output_dir=halted)) == 130
    assert not (halted / "model").exists()
    assert max(line["step"] for line in read_metrics(halted)) == 6
    capsys.readouterr()

    assert main(command(output_dir=halted)) == 0
    assert "resumed from checkpoint-4" in capsys.readouterr().out
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(halted).items())
    assert without_times(halted) == without_times(whole)


def interrupt_at(monkeypatch, step: int) -> None:
    """Ends a run between two steps, without any chance to save."""
    on_step_end = RunMonitor.on_step_end

    def interrupt(self, args, state, control, **kwargs):
        on_step_end(self, args, state, control, **kwargs)
        if state.global_step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunMonitor, "on_step_end", interrupt)


IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture
def trained_logits(monkeypatch) -> dict[int, torch.Tensor]:
    """What a run's live model says at each step at which it is saved."""
    logits, portable_model = {}, GPTScratchTrainer.portable_model

    def watch(self):
        with torch.no_grad():
            logits[self.state.global_step] = self.model.eval()(IDS).logits
        self.model.train()
        return portable_model(self)

    monkeypatch.setattr(GPTScratchTrainer, "portable_model", watch)
    return logits


def assert_opens_as(folder: Path, logits: torch.Tensor) -> None:
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, logits, atol=1e-6, rtol=0)  # another kernel, at the most
    assert (folder / "modeling_gpt_scratch.py").is_file()


def test_a_compiled_run_leaves_models_that_open_and_goes_on_after_an_interruption(
    command, tmp_path, monkeypatch, trained_logits
):
    # The names that compiling leaves do not depend on the backend, and this one is ready at once.
    compiled = {"torch_compile": True, "torch_compile_backend": "eager", "eval_strategy": "no", "eval_on_start": False}
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    assert main(command(output_dir=whole, max_steps=6, save_steps=2, **compiled)) == 0
    assert trained_logits.keys() == {2, 4, 6}
    for name, step in (("checkpoint-2", 2), ("checkpoint-6", 6), ("model", 6)):
        assert_opens_as(whole / name, trained_logits[step])
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        assert main(command(output_dir=halted, max_steps=6, save_steps=2, **compiled)) == 130
    assert main(command(output_dir=halted, max_steps=6, save_steps=2, **compiled)) == 0
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(halted).items())


def extension(command, **options) -> list[str]:
    """The command that makes eight steps of a run of four."""
    return [*command(max_steps=8, logging_steps=1, **options), "--allow_changed", "horizon"]


def test_a_finished_run_is_extended_and_keeps_its_model_until_the_new_one_is_complete(
    command, tmp_path, capsys, monkeypatch, trained_logits
):
    run = tmp_path / "run"
    assert main(command(max_steps=4, logging_steps=1)) == 0
    first, record = weights(run), json.loads((run / "run.json").read_text())
    seen = []
    on_step_end, describe = RunMonitor.on_step_end, run_folder.describe_environment
    environment = describe() | {"git_commit": "another"}

    def look(self, args, state, control, **kwargs):
        on_step_end(self, args, state, control, **kwargs)
        seen.append((state.global_step, "result" in json.loads((run / "run.json").read_text())))
        assert all(torch.equal(tensor, first[name]) for name, tensor in weights(run).items())

    monkeypatch.setattr(RunMonitor, "on_step_end", look)
    monkeypatch.setattr(run_folder, "describe_environment", lambda: environment)
    assert main(extension(command)) == 0
    assert "resumed from checkpoint-4" in capsys.readouterr().out
    assert seen == [(5, False), (6, False), (7, False), (8, False)]

    extended = json.loads((run / "run.json").read_text())
    assert (extended["result"]["steps"], extended["result"]["tokens"]) == (8, 8 * 128)
    assert extended["planned"]["steps"] == 8
    assert extended["earlier_results"] == [record["result"]]
    assert extended["starts"] == [*record["starts"], {"step": 4, "tokens": 4 * 128, **environment}]
    assert extended["git_commit"] == "another"
    assert extended["result"]["model_sha256"] == weights_sha256(run / "model") != record["result"]["model_sha256"]
    assert_opens_as(run / "model", trained_logits[8])
    lines = [line for line in read_metrics(run) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]
    # Linear from 0.02 to 0: over four steps at first, and from there on as if it had always been over eight.
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [0.02 * (1 - step / 4) for step in range(4)] + [0.02 * (1 - step / 8) for step in range(4, 8)]
    )

    monkeypatch.setattr(Trainer, "train", None)
    with (run / "recipe.yaml").open("a") as stream:
        stream.write("field_of_the_future: 1\n")
    assert main(command(max_steps=8, logging_steps=1)) == 0
    shown = capsys.readouterr()
    assert f"{run} is finished" in shown.out
    assert f"{run}/recipe.yaml: this version of the library does not know field_of_the_future\n" in shown.err


def test_an_extension_that_was_killed_goes_on_to_the_very_same_end(command, tmp_path, monkeypatch, capsys):
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    for folder in (whole, halted):
        assert main(command(max_steps=4, logging_steps=1, save_steps=2, output_dir=folder)) == 0
    assert main(extension(command, save_steps=2, output_dir=whole)) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        assert main(extension(command, save_steps=2, output_dir=halted)) == 130
    AutoModelForCausalLM.from_pretrained(halted / "model")
    capsys.readouterr()
    assert main(extension(command, save_steps=2, output_dir=halted)) == 0
    assert "resumed from checkpoint-6" in capsys.readouterr().out
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(halted).items())
    assert without_times(halted) == without_times(whole)


@pytest.mark.parametrize(
    ("options", "steps", "message"),
    [
        ({"save_strategy": "no"}, 8, "is finished and has no checkpoint to go on from"),
        ({"save_strategy": "no"}, 2, "is finished after 4 steps, and 2 are asked for: ask for more"),
    ],
)
def test_what_cannot_be_extended_stays_as_it_is(options, steps, message, command, tmp_path, capsys):
    assert main(command(max_steps=4, eval_strategy="no", **options)) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert main([*command(max_steps=steps, eval_strategy="no", **options), "--allow_changed", "horizon"]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_fewer_steps_than_a_checkpoint_has_are_refused(command, tmp_path, capsys):
    assert main(command(max_steps=4)) == 0
    shutil.rmtree(tmp_path / "run" / "model")
    before = (tmp_path / "run" / "run.json").read_text()
    assert main([*command(max_steps=2), "--allow_changed", "horizon"]) == 2
    assert "checkpoint-4 has made 4 steps, more than the 2 that are asked for" in capsys.readouterr().err
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_the_last_weights_are_validated_once(command, monkeypatch):
    measured, evaluate = [], GPTScratchTrainer.evaluate

    def count(self, *args, metric_key_prefix="eval", **options):
        measured.append((self.state.global_step, metric_key_prefix))
        return evaluate(self, *args, metric_key_prefix=metric_key_prefix, **options)

    monkeypatch.setattr(GPTScratchTrainer, "evaluate", count)
    assert main(command(max_steps=4, eval_on_start=False, save_strategy="no")) == 0
    assert measured == [(4, "eval"), (4, "test")]


@pytest.mark.parametrize("where", ["__init__", "training_step"])
def test_memory_that_runs_out_is_called_by_its_name(where, command, tmp_path, capsys, monkeypatch):
    def run_out(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(GPTScratchTrainer, where, run_out)
    assert main(command()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the device is out of memory (CUDA out of memory.")
    assert "per_device_train_batch_size" in error
    assert "gradient_checkpointing" in error


def test_checkpoint_that_was_cut_off_is_passed_over(command, tmp_path, capsys):
    assert main(command()) == 0
    run = tmp_path / "run"
    shutil.rmtree(run / "model")
    (run / "checkpoint-12" / "trainer_state.json").unlink()
    assert main(command()) == 0
    assert "resumed from checkpoint-8" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_no_model_folder(command, tmp_path):
    program = [sys.executable, "-m", "training", *command(max_steps=100_000)]
    process = subprocess.Popen(
        program,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # What a shell starts in the background ignores SIGINT, and would hand that down to here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run/checkpoint-4/trainer_state.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert re.search(r"the same command goes on from checkpoint-\d+\ninterrupted\n$", errors)
    assert "Traceback" not in errors
    assert not list((tmp_path / "run").glob("*model*"))


def test_interrupt_while_finishing_loses_nothing(command, tmp_path, monkeypatch):
    def interrupt(self, result):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", interrupt)
        assert main(command()) == 130
    assert "result" not in json.loads((tmp_path / "run" / "run.json").read_text())
    assert main(command()) == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert "result" in json.loads((tmp_path / "run" / "run.json").read_text())


def test_a_run_is_finished_when_its_model_is_surely_on_the_disk_and_not_before(command, tmp_path, monkeypatch):
    flushed, flush, finish = set(), durable.flush, RunFolder.finish

    def watch(self, result):
        files = {path.relative_to(self.path) for path in self.model.rglob("*")}
        assert {path.name for path in files} >= {"model.safetensors", "config.json", "tokenizer.json"}
        assert {path.name for path in files} <= flushed
        finish(self, result)

    monkeypatch.setattr(durable, "flush", lambda path: (flushed.add(path.name), flush(path)))
    monkeypatch.setattr(RunFolder, "finish", watch)
    assert main(command(save_strategy="no", max_steps=2)) == 0
    assert "result" in json.loads((tmp_path / "run" / "run.json").read_text())


def test_training_that_breaks_down_stops_and_leaves_no_model(command, tmp_path, capsys):
    assert main(command(learning_rate="1e30", muon_learning_rate=None, max_grad_norm=0)) == 1
    errors = capsys.readouterr().err
    assert re.search(r"error: training broke down in step \d: the gradient norm is (inf|nan); no weight was", errors)
    assert not (tmp_path / "run" / "model").exists()


def test_model_that_cannot_be_saved_leaves_no_half_of_it(command, tmp_path, capsys, monkeypatch):
    def disk_full(self, folder):
        (Path(folder) / "vocab.json").write_text("half")
        raise OSError(28, "No space left on device")

    assert main(command(output_dir=tmp_path / "first", save_strategy="no", max_steps=2)) == 0  # prepares the data
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", disk_full)
    assert main(command(save_strategy="no", max_steps=2)) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/*model*"))


def test_a_run_that_was_killed_while_it_wrote_its_first_records_begins_anew(command, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("recipe.yaml", "recipe.yaml.new", "run.json.new"):
        (tmp_path / "run" / name).write_text("half a")
    assert main(command(save_strategy="no", max_steps=2)) == 0
    assert RunFolder(
        PretrainingRecipe.load(tmp_path / "run" / "recipe.yaml", {"output_dir": str(tmp_path / "run")})
    ).result()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": "/absent"}, "corpus /absent does not exist"),
        ({"learning_rat": "1"}, "learning_rat is no setting: did you mean learning_rate?"),
        ({"seed": "one"}, "seed is 'one' (str), but must be int"),
        ({"num_attention_heads": "5"}, "hidden_size is 32, not a multiple of num_attention_heads"),
        ({"tokens_per_step": "100"}, "tokens_per_step is 100, but must be a multiple of 64"),
        ({"precision": "fp16"}, "precision is fp16, which this device does not have"),
        ({"precision": "tf32"}, "precision is tf32, which this device does not have"),
        ({"output_dir": "{file}"}, "cannot be written: file is no folder, or not yours"),
        ({"output_dir": "{file}/run"}, "cannot be written: file is no folder, or not yours"),
        ({"output_dir": "{other}"}, "holds files that are no run: choose another folder"),
        ({"data_dir": "{file}"}, "{file}"),
        ({"tokenizer": "/absent"}, "/absent does not exist"),
        ({"vocab_size": "20"}, "vocab_size is 20, but a byte-level tokenizer has at least 258 tokens"),
        ({"corpus": "{short}"}, "less than one window of 33: use more text, or a smaller max_position_embeddings"),
        ({"corpus": "{empty}"}, "is empty: it holds no text"),
        ({"corpus": "{latin}"}, "is not UTF-8 text"),
        ({"eval_steps": None, "logging_steps": "0"}, "the library refuses the recipe: evaluation strategy"),
        ({"optim_args": "foo"}, "the library refuses the recipe: "),
        ({"warmup_steps": "20"}, "are together more than the 12 steps of the run: lower them, or train longer"),
        ({"report_to": "nonsense"}, "the library refuses the recipe: nonsense is not supported"),
        ({"adam_beta1": "2"}, "the library refuses the recipe: Invalid beta parameter"),
    ],
)
def test_bad_input_gets_a_clear_line_and_changes_nothing(options, message, command, tmp_path, capsys):
    if message.startswith("precision") and torch.accelerator.is_available():
        pytest.skip("this device has the precision")
    places = {name: tmp_path / name for name in ("file", "other", "short", "empty", "latin")}
    places["file"].write_text("precious")
    for name, content in (("other", b"precious"), ("short", b"a b c d"), ("empty", b""), ("latin", b"caf\xe9")):
        places[name].mkdir()
        (places[name] / "file.txt").write_bytes(content)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    options = {name: value and value.format(**places) for name, value in options.items()}

    assert main(command(**options)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("tokenizing")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message.format(**places) in lines[0]
    # The library refuses only when the data is there, and prepared data is not lost.
    refused_late = message.startswith(("the library", "are together"))
    after = {
        path: path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and not (refused_late and "data" in path.parts)
    }
    assert after == before
    assert not (tmp_path / "run").exists()


def test_folder_of_another_run_is_refused_and_untouched(command, tmp_path, capsys):
    assert main(command(max_steps=2)) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(command(max_steps=4, seed=1)) == 2
    assert "a run with another data and horizon (max_steps was 2, now 4; seed was 42, now 1)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_run_that_began_on_other_data_is_not_continued(command, tmp_path, texts, capsys):
    corpus = tmp_path / "corpus"
    shutil.copytree(texts, corpus)
    assert main(command(corpus=corpus, max_steps=4)) == 0
    shutil.rmtree(tmp_path / "run" / "model")
    (corpus / "00.txt").write_text("Something else.\n" * 50)
    assert main(command(corpus=corpus, max_steps=4)) == 0  # its own is still there
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "data")
    assert main(command(corpus=corpus, max_steps=4)) == 2
    assert re.search("a run with another data and tokenizer .*--allow_changed data,tokenizer", capsys.readouterr().err)


def test_bf16_trains_by_autocast_and_keeps_fp32_weights(command, tmp_path):
    assert main(command(precision="bf16", max_steps=4)) == 0
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}
    result = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    assert result["eval_loss"] < result["initial"]["eval_loss"]


def test_option_without_its_value_gets_a_short_answer(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["pretrain", "--seed"])
    assert exit_.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[1].endswith("error: argument --seed: expected one argument")


def test_epochs_become_whole_steps(command, tmp_path):
    assert main(command(max_steps=None, num_train_epochs=2, save_strategy="no", eval_strategy="no")) == 0
    (manifest,) = tmp_path.glob("data/*/manifest.json")
    windows = (json.loads(manifest.read_text())["parts"]["train"]["tokens"] - 1) // 32
    result = json.loads((tmp_path / "run" / "run.json").read_text())["result"]
    assert result["steps"] == -(-2 * windows // 4)


def test_existing_tokenizer_must_fit_the_model(command, tmp_path, tokenizer, capsys):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert main(command(tokenizer=tmp_path / "tokenizer")) == 2
    assert (
        "the tokenizer has 400 tokens, but vocab_size is 300: set vocab_size to 400 or more" in capsys.readouterr().err
    )
    assert main(command(tokenizer=tmp_path / "tokenizer", vocab_size=512, max_steps=2)) == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "run" / "model")) == 400


@pytest.mark.parametrize(("argv", "message"), [([], "a command is missing"), (["train"], "train is no command")])
def test_unknown_command_is_refused(argv, message, capsys):
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_help_lists_the_settings(capsys):
    assert main(["--help"]) == 0
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    printed = capsys.readouterr().out
    assert "--tokens_per_step" in printed
    assert "--learning_rate" in printed
