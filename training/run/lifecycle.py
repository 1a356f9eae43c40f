"""A run from its lock to its result: choose a checkpoint, train, write the model, and say what has come of it."""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from configuration.recipe import Recipe
from modeling_gpt_scratch.model_folder import write_model_folder

from ..errors import InputError
from ..optimization.precision import (
    DTYPES,
    choose_muon_dtype,
    precision_arguments,
    set_cpu_matmul_precision,
    slow_precision,
)
from ..optimization.schedules import build_schedule
from ..optimization.steps import steps_for_epochs
from ..processes import leads, on_first_process, process_count, wants_fsdp
from ..record import RECIPE
from ..view.live import LiveCharts
from .checkpoints import Checkpoints
from .folder import RunFolder
from .interruption import RunStoppedError, StopRequest
from .monitor import RunMonitor
from .program import Program
from .result import print_result, result_of
from .resuming import choose_checkpoint, progress_of
from .speed import Speed
from .trackers import keep_tensorboard_in, require_trackers
from .trainer import ReliableTrainer


def run_program(program: Program, resume: str = "auto", allowed: Collection[str] = ()) -> dict[str, Any] | None:
    """Runs a program to its end, from wherever its run folder stands, and prints the result.

    Args:
        resume: `auto`, `never`, or the path of the checkpoint to go on from.
        allowed: groups of the recipe that may differ from what the run began with.

    Returns:
        The result, on the first process.

    Raises:
        InputError: the recipe does not fit this device, its data or its run folder.
        RunStoppedError: a signal has stopped it, and the same command goes on.
        FloatingPointError: a gradient was not finite.
    """
    folder = RunFolder(program, allowed)
    if folder.unknown_settings and leads():
        names = ", ".join(folder.unknown_settings)
        print(f"{folder.path / RECIPE}: this version of the library does not know {names}", file=sys.stderr)
    finished = folder.result()
    if finished is not None and resume == "auto" and not folder.changed_groups:
        if leads():
            print(f"{folder.path} is finished")
            print_result(folder)
        return finished
    with folder.lock() if leads() else nullcontext(), _memory_as_input_error(program):
        return _Run(program, folder, finished).to_the_end(resume)


class _Run:
    """One start of a run, under its folder's lock."""

    def __init__(self, program: Program, folder: RunFolder, finished: dict[str, Any] | None):
        self.program, self.folder, self.finished = program, folder, finished
        self.recipe = program.recipe
        self.charts = LiveCharts(folder.path)
        self.stop = StopRequest()

    def to_the_end(self, resume: str) -> dict[str, Any] | None:
        self.args = self._arguments()
        self._decide()
        self.parent = self._find_parent()
        self.data = self.program.prepare(self.folder.begun_on(), print)
        self._set_steps()
        schedule = build_schedule(self.recipe, self.args.max_steps)
        self._choose_checkpoint(resume)
        self._make_trainer(schedule)
        self._begin()
        measured = self._train()
        return self._finish(measured)

    def _arguments(self) -> TrainingArguments:
        """The library's arguments on the device at hand; the batch is not decided yet."""
        precision = precision_arguments(self.recipe.optimization.precision)
        set_cpu_matmul_precision(self.recipe.optimization.cpu_matmul_precision)
        require_trackers(self.recipe.training["report_to"])
        self.program.check(process_count())
        settings = {
            **self.recipe.training,
            **precision,
            **self.program.arguments,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "logging_nan_inf_filter": False,  # it would log a loss that is not a number as 0
        }
        if settings["ddp_find_unused_parameters"] is None:
            settings["ddp_find_unused_parameters"] = False  # there are none, and looking for them costs time every step
        with _refusals_as_input_errors():
            args = self.recipe.arguments_class(**settings)
        if args.n_gpu > 1:
            raise InputError(
                f"one process sees {args.n_gpu} GPUs: start one for each (torchrun --nproc-per-node {args.n_gpu} -m "
                f"training {self.program.name} ...), or show it one (CUDA_VISIBLE_DEVICES=0)"
            )
        return args

    def _decide(self) -> None:
        """Decides what the recipe leaves open, or keeps to what the run has decided when it began."""
        device = self.args.device  # the process's own; asking for it also joins the processes
        decided = on_first_process(self.folder.planned)
        micro_batch, accumulation = self.program.batch(device, process_count(), decided.get("micro_batch"))
        self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps = micro_batch, accumulation
        self.examples_per_step = micro_batch * accumulation * process_count()
        recorded = decided.get("muon_dtype")
        self.muon_dtype = on_first_process(lambda: choose_muon_dtype(self.recipe, device, recorded))
        if leads() and (line := slow_precision(self.recipe, device)):
            print(line, file=sys.stderr)

    def _find_parent(self) -> dict[str, Any] | None:
        """What the run begins with; once it has begun, what it began with, which may be out of reach now."""

        def find() -> dict[str, Any] | None:
            record = self.folder.record()
            return self.program.parent() if record is None else record.get("parent")

        return on_first_process(find)

    def _set_steps(self) -> None:
        if self.args.max_steps < 0:
            self.args.max_steps = steps_for_epochs(
                self.args.num_train_epochs, self.program.num_examples(), self.examples_per_step
            )
        if self.finished is not None and self.args.max_steps <= self.finished["steps"]:
            raise InputError(
                f"{self.folder.path} is finished after {self.finished['steps']:,} steps, and {self.args.max_steps:,} "
                "are asked for: ask for more (max_steps) to extend it, or choose another output_dir"
                + self._remedy(", which {} begins with this model")
            )

    def _remedy(self, words: str) -> str:
        """Advice with `--init_from MODEL` in it, for programs that have the setting."""
        has_it = "init_from" in self.program.recipe_class.settings()
        return words.format(f"--init_from {self.folder.model}") if has_it else ""

    def _choose_checkpoint(self, resume: str) -> None:
        groups, hashes = self.program.groups(), self.program.hashes(self.data)
        micro_batch = self.args.per_device_train_batch_size
        fingerprint = groups.fingerprint(self.recipe, hashes, process_count(), micro_batch, self.parent)
        self.checkpoints = Checkpoints(self.folder.path, fingerprint, self.args.save_total_limit)
        self.checkpoint = on_first_process(
            lambda: choose_checkpoint(self.checkpoints, groups, resume, self.folder.allowed, self.args.max_steps)
        )
        if self.finished is not None and self.checkpoint is None:
            raise InputError(
                f"{self.folder.path} is finished and has no checkpoint to go on from (save_strategy was no, or they "
                "were deleted): choose another output_dir to train from the start"
                + self._remedy(", or from its model ({})")
            )

    def _make_trainer(self, schedule: Callable[[int], float]) -> None:
        model = self.program.make_model(None if self.checkpoint else self.parent)
        step_size = self.program.step_size(self.examples_per_step)
        self.speed = Speed(self.folder.path, self.program.unit, step_size, self.program.flops_per_unit(model))
        optimization = self.recipe.optimization
        with _refusals_as_input_errors():
            self.trainer = self.program.make_trainer(
                model,
                self.args,
                callbacks=[self.speed, RunMonitor(self.folder.path, self.speed, self.program.figures), self.charts],
                checkpoints=self.checkpoints,
                stop=self.stop,
                speed=self.speed,
                max_skipped_steps=optimization.max_skipped_steps,
                schedule=schedule,
                muon_learning_rate=optimization.muon_learning_rate,
                muon_dtype=DTYPES[self.muon_dtype or "fp32"],
                decay_everything=optimization.weight_decay_on == "everything",
            )
            # Made once for trial: what they refuse is known before the run begins, and not after its folder is written.
            self.trainer.create_optimizer_and_scheduler(self.args.max_steps)
            self.trainer.optimizer = self.trainer.lr_scheduler = None
        if self.trainer.eval_dataset is None:
            raise InputError(
                f"{self.program.name} has no data to measure its model on, which every run does at its end"
            )
        _require_whole_fsdp(self.recipe, self.trainer)
        self.trainer.remove_callback(ProgressCallback)
        self.trainer.remove_callback(PrinterCallback)
        keep_tensorboard_in(self.folder.path, self.trainer)

    def _begin(self) -> None:
        """Writes down what is about to happen, and says it."""
        step, seen = progress_of(self.checkpoint)
        unit, steps = self.program.unit, self.args.max_steps
        self.planned = {
            "parameters": self.trainer.model.num_parameters(),
            "steps": steps,
            **({} if unit == "tokens" else {"unit": unit}),
            unit: seen + (steps - step) * self.speed.step_size,  # whose size may have been another before
            "micro_batch": self.args.per_device_train_batch_size,
            "muon_dtype": self.muon_dtype,
        }
        if leads():
            self.folder.begin(self.data, self.planned, step, seen, self.parent)
            print(
                f"{self.planned['parameters']:,} parameters, {steps:,} steps of {self.speed.step_size:,} {unit}"
                + (f", resumed from {self.checkpoint.name}" if self.checkpoint else "")
            )

    def _train(self) -> dict[str, Any]:
        """Trains and measures; returns figures for the result.

        Raises:
            RunStoppedError: a signal has stopped it.
        """
        try:
            with self.stop.listening():
                self.trainer.train(resume_from_checkpoint=self.checkpoint)
                self.stop.raise_if_asked()
                seconds = self.speed.elapsed_seconds
                return {"seconds": seconds, **self.program.measure(self.trainer)}
        except (KeyboardInterrupt, RunStoppedError):
            if leads():
                saved = self.checkpoints.all()
                print(f"the same command goes on from {saved[-1].name if saved else 'the start'}", file=sys.stderr)
            raise

    def _finish(self, measured: dict[str, Any]) -> dict[str, Any] | None:
        trained = self.trainer.portable_model()  # from all processes, where it is in shards
        if leads():
            self.charts.redraw()
            inputs = self.program.inputs(trained)
            write_model_folder(self.folder.model, trained, self.trainer.processing_class, replace=True, inputs=inputs)
            # Last of all comes the result, when all that it speaks of is on the disk: a run with a result is finished.
            self.folder.finish(result_of(self.folder, self.planned, measured, self.speed))
            print_result(self.folder)
        self.trainer.accelerator.wait_for_everyone()
        return self.folder.result()


def _require_whole_fsdp(recipe: Recipe, trainer: ReliableTrainer) -> None:
    """Raises InputError where FSDP was asked for and is not what came."""
    if wants_fsdp(recipe.training) and trainer.accelerator.distributed_type != DistributedType.FSDP:
        raise InputError(
            f"FSDP was asked for, but Accelerate has chosen {trainer.accelerator.distributed_type.value} here: use "
            "several GPUs, or launch without FSDP"
        )
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        raise InputError(
            "FSDP of version 1 was asked for: set fsdp_version to 2, as configuration/launch/fsdp2.yaml does"
        )


@contextmanager
def _refusals_as_input_errors() -> Iterator[None]:
    """What the library does not accept is the user's to change."""
    try:
        yield
    except (torch.OutOfMemoryError, InputError):  # a RuntimeError that is no refusal; what the program itself refuses
        raise
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise InputError(f"the library refuses the recipe: {' '.join(str(error).split())}") from error


@contextmanager
def _memory_as_input_error(program: Program) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        can_choose = "per_device_train_batch_size" in program.recipe_class.widened
        raise InputError(
            f"the device is out of memory ({' '.join(str(error).split())[:200]}): lower per_device_train_batch_size, "
            + ("or set it to auto, which finds the largest that fits; " if can_choose else "")
            + "or set gradient_checkpointing"
        ) from error
