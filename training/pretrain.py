"""`python -m training pretrain RECIPE.yaml [--field value ...]`: text in, a model folder out."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerFast,
    PrinterCallback,
    ProgressCallback,
    TrainingArguments,
    logging,
    set_seed,
)

from configuration.recipe import Recipe, add_recipe_arguments, parse_recipe_arguments
from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM
from modeling_gpt_scratch.atomic_folder import atomic_folder

from .batches import TokenWindows, WindowOrder, accumulation_steps, steps_for_epochs
from .charts import draw_charts
from .corpus import SPLITS
from .errors import InputError
from .monitoring import RunMonitor, read_metrics
from .run_folder import RunFolder
from .shards import prepare_shards
from .trainer import GPTScratchTrainer


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training pretrain",
        usage="%(prog)s [RECIPE.yaml] [--field value ...]",  # a list of all fields would hide an error's last line
        description=__doc__,
        allow_abbrev=False,
    )
    add_recipe_arguments(parser)
    logging.disable_progress_bar()  # a bar for each checkpoint's file would tear the run's own
    pretrain(parse_recipe_arguments(parser, argv))
    return 0


def pretrain(recipe: Recipe) -> dict[str, Any]:
    """Runs a recipe to its end, from wherever its run folder stands, and prints the result.

    Raises:
        InputError: the recipe does not fit this device, its data or its run folder.
    """
    run = RunFolder(recipe)
    result = run.result()
    if result is not None:
        print(f"{run.path} is finished")
        print_result(result, run)
        return result

    processes = int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun and its kin
    length = recipe.model.max_position_embeddings
    micro_batch = recipe.training["per_device_train_batch_size"]
    accumulation = accumulation_steps(recipe.run.tokens_per_step, micro_batch, length, processes)
    precision = precision_arguments(recipe.run.precision)

    shards = prepare_shards(recipe.run, recipe.model.vocab_size, length, say=print)
    train_windows = TokenWindows(shards.tokens("train"), length)
    held_out = {part: TokenWindows(shards.tokens(part), length, keep_tail=True) for part in SPLITS[1:]}
    max_steps = recipe.training["max_steps"]
    windows_per_step = micro_batch * processes * accumulation
    if max_steps < 0:
        max_steps = steps_for_epochs(recipe.training["num_train_epochs"], len(train_windows), windows_per_step)

    checkpoint = run.newest_checkpoint()
    settings = {
        **recipe.training,
        **precision,
        "max_steps": max_steps,
        "gradient_accumulation_steps": accumulation,
        "remove_unused_columns": False,
        "eval_on_start": recipe.training["eval_on_start"] and checkpoint is None,
        "logging_nan_inf_filter": False,  # it would log a loss that is not a number as 0
    }
    set_seed(recipe.training["seed"])
    model = GPTScratchForCausalLM(with_special_tokens(recipe.model, shards.tokenizer))
    # `pipeline` and `generate` continue up to what the model can hold, whoever does not say how far.
    model.generation_config.max_length = length
    shards.tokenizer.model_max_length = length
    monitor = RunMonitor(run.path, recipe.run.tokens_per_step)
    seed = recipe.training["seed"] if recipe.training["data_seed"] is None else recipe.training["data_seed"]
    try:
        trainer = GPTScratchTrainer(
            model=model,
            args=TrainingArguments(**settings),
            train_dataset=train_windows,
            eval_dataset=held_out["validation"],
            processing_class=shards.tokenizer,
            callbacks=[monitor],
            order=WindowOrder(len(train_windows), max_steps * windows_per_step, seed, recipe.run.shuffle),
            muon_learning_rate=recipe.run.muon_learning_rate,
            eval_utf8_bytes=shards.utf8_bytes("validation"),
        )
        # Made once for trial: what they refuse is known before the run begins, and not after its folder is written.
        trainer.create_optimizer_and_scheduler(max_steps)
        trainer.optimizer = trainer.lr_scheduler = None
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        run.discard_if_empty()
        raise InputError(f"the library refuses the recipe: {' '.join(str(error).split())}") from error
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    run.begin({"corpus": shards.manifest["corpus"], "tokenizer_sha256": shards.manifest["tokenizer"]["sha256"]})

    print(
        f"{model.num_parameters():,} parameters, {max_steps:,} steps of {recipe.run.tokens_per_step:,} tokens"
        + (f", resumed from {checkpoint.name}" if checkpoint else "")
    )
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        newest = run.newest_checkpoint()
        print(f"the same command goes on from {newest.name if newest else 'the start'}", file=sys.stderr)
        raise
    elapsed_seconds = monitor.elapsed_seconds
    validation = trainer.evaluate()
    test = trainer.evaluate(held_out["test"], metric_key_prefix="test", utf8_bytes=shards.utf8_bytes("test"))

    if trainer.is_world_process_zero():
        tokens = max_steps * recipe.run.tokens_per_step
        first = next((line for line in read_metrics(run.path) if line["step"] == 0 and "eval_loss" in line), {})
        # Last of all comes the folder's final name: a run with a model is finished.
        with atomic_folder(run.model) as folder:
            model.save_pretrained(folder)
            shards.tokenizer.save_pretrained(folder)
            draw_charts(run.path)
            run.finish(
                {
                    "parameters": model.num_parameters(),
                    "steps": max_steps,
                    "tokens": tokens,
                    "seconds": round(elapsed_seconds, 1),
                    "tokens_per_second": round(tokens / elapsed_seconds, 1),
                    "initial": {name: first[name] for name in ("eval_loss", "eval_bits_per_byte") if name in first},
                    **{name: value for name, value in (validation | test).items() if name != "epoch"},
                }
            )
        print_result(run.result(), run)
    return run.result()


def precision_arguments(precision: str) -> dict[str, bool]:
    """The `TrainingArguments` that give this precision on the device at hand.

    Raises:
        InputError: the device does not have it.
    """
    if torch.cuda.is_available():
        if precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise InputError("precision is bf16, which this GPU does not have: use fp16, tf32 or fp32")
        return {"bf16": precision == "bf16", "fp16": precision == "fp16", "tf32": precision == "tf32"}
    on_cpu = not torch.accelerator.is_available()
    if precision == "tf32" or (precision == "fp16" and on_cpu):
        raise InputError(f"precision is {precision}, which this device does not have: use fp32 or bf16")
    return {"bf16": precision == "bf16", "fp16": precision == "fp16", "use_cpu": on_cpu}


def with_special_tokens(config: GPTScratchConfig, tokenizer: PreTrainedTokenizerFast) -> GPTScratchConfig:
    """The config with the tokenizer's special tokens."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GPTScratchConfig(**{**config.to_dict(), **special})


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
