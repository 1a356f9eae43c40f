"""`python -m training pretrain RECIPE.yaml [--field value ...]`: text in, a model folder out."""

import argparse
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerState,
    TrainingArguments,
    logging,
)

from configuration.recipe import Recipe, add_recipe_arguments, parse_recipe_arguments
from modeling_gpt_scratch.model_folder import write_model_folder

from .data.corpus import SPLITS
from .data.preparation import add_verify_argument, prepare_shards
from .data.shards import data_record
from .data.windows import TokenWindows, WindowOrder
from .errors import InputError
from .files import weights_sha256
from .optimization.initialization import initial_model
from .optimization.precision import (
    DTYPES,
    choose_muon_dtype,
    precision_arguments,
    set_cpu_matmul_precision,
    slow_precision,
)
from .optimization.schedules import build_schedule
from .optimization.steps import accumulation_steps, steps_for_epochs
from .planning.dry_run import print_plan
from .planning.flops import model_flops_per_token
from .planning.micro_batch import choose_micro_batch, wants_fsdp
from .processes import on_first_process
from .record import read_metrics
from .run.checkpoints import OTHER_VERSION, STATE, Checkpoints, manifest_of, problems_of
from .run.folder import RunFolder, add_resume_arguments, allowed_changes, fingerprint, refuse_changes
from .run.interruption import RunStoppedError, StopRequest
from .run.monitor import RunMonitor
from .run.trackers import keep_tensorboard_in, require_trackers
from .run.window_trainer import GPTScratchTrainer
from .view.charts import LiveCharts


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training pretrain",
        usage="%(prog)s [RECIPE.yaml] [--field value ...]",  # a list of all fields would hide an error's last line
        description=__doc__,
        allow_abbrev=False,
    )
    add_verify_argument(parser)
    add_recipe_arguments(parser)
    parser.add_argument("--dry_run", action="store_true", help="print what the recipe means and needs, and exit")
    add_resume_arguments(parser)
    logging.disable_progress_bar()  # a bar for each checkpoint's file would tear the run's own
    recipe, options = parse_recipe_arguments(parser, argv)
    allowed = allowed_changes(options)
    if options.dry_run:
        print_plan(recipe, process_count())
    else:
        pretrain(recipe, options.resume, allowed, options.verify_data)
    return 0


def pretrain(
    recipe: Recipe, resume: str = "auto", allowed: Collection[str] = (), verify_data: bool = False
) -> dict[str, Any] | None:
    """Runs a recipe to its end, from wherever its run folder stands, and prints the result.

    Args:
        resume: `auto`, `never`, or the path of the checkpoint to go on from.
        allowed: groups of the recipe that may differ from what the run began with.
        verify_data: compare the prepared data's sha256 with what was written.

    Returns:
        The result, on the first process.

    Raises:
        InputError: the recipe does not fit this device, its data or its run folder.
        RunStoppedError: a signal has stopped it, and the same command goes on.
        FloatingPointError: a gradient was not finite.
    """
    run = RunFolder(recipe, allowed)
    leads = int(os.environ.get("RANK", "0")) == 0  # set by torchrun and its kin
    if run.unknown_settings and leads:
        names = ", ".join(run.unknown_settings)
        print(f"{run.path}/recipe.yaml: this version of the library does not know {names}", file=sys.stderr)
    finished = run.result()
    if finished is not None and resume == "auto" and not run.changed_groups:
        return _show_finished(finished, run, leads)

    with run.lock() if leads else nullcontext():
        try:
            return _pretrain(run, recipe, resume, verify_data, leads, finished)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"the device is out of memory ({' '.join(str(error).split())[:200]}): lower "
                "per_device_train_batch_size, or set it to auto, which finds the largest that fits; or set "
                "gradient_checkpointing"
            ) from error


def _pretrain(
    run: RunFolder, recipe: Recipe, resume: str, verify_data: bool, leads: bool, finished: dict[str, Any] | None
) -> dict[str, Any] | None:
    processes, length = process_count(), recipe.model.max_position_embeddings
    precision = precision_arguments(recipe.run.precision)
    set_cpu_matmul_precision(recipe.run.cpu_matmul_precision)
    require_trackers(recipe.training["report_to"])
    asked = recipe.training["per_device_train_batch_size"]
    micro_batch = 1 if asked == "auto" else asked  # to be tried once this process has its device
    accumulation = accumulation_steps(recipe.run.tokens_per_step, micro_batch, length, processes)
    settings = {
        **recipe.training,
        **precision,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,  # it would log a loss that is not a number as 0
    }
    if settings["ddp_find_unused_parameters"] is None:
        settings["ddp_find_unused_parameters"] = False  # there are none, and looking for them costs time every step
    with _refusals_as_input_errors():
        args = TrainingArguments(**settings)
    if args.n_gpu > 1:
        raise InputError(
            f"one process sees {args.n_gpu} GPUs: start one for each (torchrun --nproc-per-node {args.n_gpu} -m "
            "training pretrain ...), or show it one (CUDA_VISIBLE_DEVICES=0)"
        )
    device = args.device  # the process's own; asking for it also joins the processes
    decided = on_first_process(run.planned)
    micro_batch = choose_micro_batch(recipe, processes, device, decided.get("micro_batch"))
    accumulation = accumulation_steps(recipe.run.tokens_per_step, micro_batch, length, processes)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = micro_batch, accumulation
    muon_dtype = on_first_process(lambda: choose_muon_dtype(recipe, device, decided.get("muon_dtype")))
    if leads and (line := slow_precision(recipe, device)):
        print(line, file=sys.stderr)
    shards = prepare_shards(recipe.run, recipe.model.vocab_size, length, print, verify_data, run.begun_on())
    document_start = shards.tokenizer.eos_token_id if recipe.run.document_masking else None
    train_windows = TokenWindows(shards.tokens("train"), length, document_start=document_start)
    held_out = {part: TokenWindows(shards.tokens(part), length, True, document_start) for part in SPLITS[1:]}
    windows_per_step = micro_batch * processes * accumulation
    if args.max_steps < 0:
        args.max_steps = steps_for_epochs(args.num_train_epochs, len(train_windows), windows_per_step)
    max_steps = args.max_steps
    if finished is not None and max_steps <= finished["steps"]:
        raise InputError(
            f"{run.path} is finished after {finished['steps']:,} steps, and {max_steps:,} are asked for: ask for more "
            "(max_steps) to extend it, or choose another output_dir"
        )
    schedule = build_schedule(recipe, max_steps)

    data = data_record(shards.folder)
    checkpoints = Checkpoints(run.path, fingerprint(recipe, data, processes, micro_batch), args.save_total_limit)
    checkpoint = on_first_process(lambda: _choose_checkpoint(checkpoints, resume, run.allowed, max_steps))
    if finished is not None and checkpoint is None:
        raise InputError(
            f"{run.path} is finished and has no checkpoint to go on from (save_strategy was no, or they were deleted): "
            "choose another output_dir to train from the start"
        )
    args.eval_on_start = args.eval_on_start and checkpoint is None

    model = initial_model(recipe, shards.tokenizer)
    # `pipeline` and `generate` continue up to what the model can hold, whoever does not say how far.
    model.generation_config.max_length = length
    shards.tokenizer.model_max_length = length
    monitor = RunMonitor(run.path, recipe.run.tokens_per_step, model_flops_per_token(model.config))
    charts = LiveCharts(run.path)
    stop = StopRequest()
    data_seed = args.seed if args.data_seed is None else args.data_seed
    with _refusals_as_input_errors():
        trainer = GPTScratchTrainer(
            model=model,
            args=args,
            train_dataset=train_windows,
            eval_dataset=held_out["validation"],
            processing_class=shards.tokenizer,
            callbacks=[monitor, charts],
            order=WindowOrder(len(train_windows), max_steps * windows_per_step, data_seed, recipe.run.shuffle),
            muon_learning_rate=recipe.run.muon_learning_rate,
            muon_dtype=DTYPES[muon_dtype or "fp32"],
            eval_utf8_bytes=shards.utf8_bytes("validation"),
            checkpoints=checkpoints,
            stop=stop,
            max_skipped_steps=recipe.run.max_skipped_steps,
            speed_at=monitor.speed_at,
            schedule=schedule,
            decay_everything=recipe.run.weight_decay_on == "everything",
        )
        # Made once for trial: what they refuse is known before the run begins, and not after its folder is written.
        trainer.create_optimizer_and_scheduler(max_steps)
        trainer.optimizer = trainer.lr_scheduler = None
    if wants_fsdp(recipe) and trainer.accelerator.distributed_type != DistributedType.FSDP:
        raise InputError(
            f"FSDP was asked for, but Accelerate has chosen {trainer.accelerator.distributed_type.value} here: use "
            "several GPUs, or launch without FSDP"
        )
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        raise InputError(
            "FSDP of version 1 was asked for: set fsdp_version to 2, as configuration/launch/fsdp2.yaml does"
        )
    step = manifest_of(Path(checkpoint))["step"] if checkpoint else 0
    seen = TrainerState.load_from_json(str(Path(checkpoint, STATE))).num_input_tokens_seen if checkpoint else 0
    tokens = seen + (max_steps - step) * recipe.run.tokens_per_step  # whose number may have been another before
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    keep_tensorboard_in(run.path, trainer)
    if leads:
        planned = {
            "parameters": model.num_parameters(),
            "steps": max_steps,
            "tokens": tokens,
            "micro_batch": micro_batch,
            "muon_dtype": muon_dtype,
        }
        run.begin(data, planned, step, seen)
        print(
            f"{planned['parameters']:,} parameters, {max_steps:,} steps of {recipe.run.tokens_per_step:,} tokens"
            + (f", resumed from {Path(checkpoint).name}" if checkpoint else "")
        )
    try:
        with stop.listening():
            trainer.train(resume_from_checkpoint=checkpoint)
            stop.raise_if_asked()
            elapsed_seconds = monitor.elapsed_seconds
            validation = trainer.evaluation_of(max_steps) or trainer.evaluate()
            test = trainer.evaluate(held_out["test"], metric_key_prefix="test", utf8_bytes=shards.utf8_bytes("test"))
    except (KeyboardInterrupt, RunStoppedError):
        if leads:
            saved = checkpoints.all()
            print(f"the same command goes on from {saved[-1].name if saved else 'the start'}", file=sys.stderr)
        raise

    trained = trainer.portable_model()  # from all processes, where it is in shards
    if leads:
        # The time is that of this folder, which may have set in at another run's checkpoint.
        tokens_per_second = (tokens - run.record()["starts"][0].get("tokens", 0)) / elapsed_seconds
        first = next((line for line in read_metrics(run.path) if line["step"] == 0 and "eval_loss" in line), {})
        charts.redraw()
        write_model_folder(run.model, trained, shards.tokenizer, replace=True)
        # Last of all comes the result, when all that it speaks of is on the disk: a run with a result is finished.
        run.finish(
            {
                "parameters": trained.num_parameters(),
                "model_sha256": weights_sha256(run.model),
                "steps": max_steps,
                "tokens": tokens,
                "seconds": round(elapsed_seconds, 1),
                "tokens_per_second": round(tokens_per_second, 1),
                "peak_flops": round(monitor.peak_flops),
                "mfu": float(f"{monitor.utilization(tokens_per_second):.4g}"),
                "initial": {name: first[name] for name in ("eval_loss", "eval_bits_per_byte") if name in first},
                **{name: value for name, value in (validation | test).items() if name != "epoch"},
            }
        )
        print_result(run.result(), run)
    trainer.accelerator.wait_for_everyone()
    return run.result()


def _choose_checkpoint(checkpoints: Checkpoints, resume: str, allowed: Collection[str], max_steps: int) -> str | None:
    """Where the run goes on from, or `None`; sets aside what is damaged or will be made anew, and says so.

    Raises:
        InputError: the checkpoint that was named cannot be used, there is none that is whole, or there should be none.
    """
    checkpoints.discard_staging()  # of a process that was killed while it saved
    if resume == "never":
        if checkpoints.all():
            raise InputError(
                f"{checkpoints.run} holds checkpoints, and --resume is never: choose another output_dir, or delete the "
                "folder"
            )
        return None
    if resume == "auto":
        checkpoint, lines = checkpoints.newest_valid()
    else:
        checkpoint = Path(resume)
        problems = problems_of(checkpoint) if checkpoint.is_dir() else ["it is no folder"]
        if problems:
            raise InputError(f"--resume {resume} cannot be used: {'; '.join(problems)}")
        lines = []
    if checkpoint is None:
        return None
    manifest = manifest_of(checkpoint)
    step, then = manifest["step"], manifest["fingerprint"]
    if then.keys() != checkpoints.fingerprint.keys():
        raise InputError(
            f"{checkpoint} cannot be used: {OTHER_VERSION}; go on with that one, or choose another output_dir"
        )
    if step > max_steps:
        raise InputError(
            f"{checkpoint} has made {step:,} steps, more than the {max_steps:,} that are asked for: ask for more, name "
            "an older checkpoint with --resume, or choose another output_dir"
        )
    changes = {
        name: (group, then[group].get(name), value)
        for group, values in checkpoints.fingerprint.items()
        for name, value in values.items()
        if then[group].get(name) != value
    }
    refuse_changes(changes, allowed, str(checkpoint))
    for line in [*lines, *checkpoints.set_aside_after(step)]:
        print(line, file=sys.stderr)
    return str(checkpoint)


@contextmanager
def _refusals_as_input_errors() -> Iterator[None]:
    """What the library does not accept is the user's to change."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError that is no refusal
        raise
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise InputError(f"the library refuses the recipe: {' '.join(str(error).split())}") from error


def process_count() -> int:
    """Processes that share the run, as torchrun and its kin say."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _show_finished(result: dict[str, Any], run: RunFolder, leads: bool) -> dict[str, Any]:
    if leads:
        print(f"{run.path} is finished")
        print_result(result, run)
    return result


def print_result(result: dict[str, Any], run: RunFolder) -> None:
    """What a run has come to, for a person."""
    initial = result["initial"]
    for name, unit in (("loss", "nats per token"), ("bits_per_byte", "bits per byte")):
        start = f"{initial[f'eval_{name}']:.4f} -> " if initial else ""
        print(f"validation: {start}{result[f'eval_{name}']:.4f} {unit} (test: {result[f'test_{name}']:.4f})")
    print(
        f"{result['tokens']:,} tokens in {result['seconds']:,.0f} s: {result['tokens_per_second']:,.0f} tokens/s\n"
        f"model: {run.model}    charts: {Path(run.path, 'loss.png')}"
    )
