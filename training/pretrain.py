"""`python -m training pretrain RECIPE.yaml [--field value ...]`: text in, a model folder out."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from configuration.pretraining import PretrainingRecipe
from modeling_gpt_scratch import GPTScratchForCausalLM

from .data.mixture import corpus_windows, describe_shares
from .data.preparation import add_verify_argument, prepare_shards
from .data.shards import data_record
from .data.windows import TokenWindows, WindowOrder
from .optimization.initialization import initial_model
from .optimization.steps import accumulation_steps
from .planning.dry_run import print_plan
from .planning.flops import model_flops_per_token
from .planning.micro_batch import choose_micro_batch
from .processes import leads, process_count
from .run.command import program_parser, read_command
from .run.lifecycle import run_program
from .run.program import Program, Say
from .run.window_trainer import GPTScratchTrainer


def main(argv: list[str]) -> int:
    parser = program_parser(Pretraining, "python -m training pretrain", __doc__)
    add_verify_argument(parser)
    parser.add_argument("--dry_run", action="store_true", help="print what the recipe means and needs, and exit")
    recipe, allowed, options = read_command(parser, Pretraining, argv)
    if options.dry_run:
        print_plan(recipe, process_count())
    else:
        run_program(Pretraining(recipe, options.verify_data), options.resume, allowed)
    return 0


class Pretraining(Program):
    """A model from its initial weights, trained on windows of a text's tokens.

    Args:
        verify_data: compare the prepared data's sha256 with what was written.
    """

    name, recipe_class, unit = "pretrain", PretrainingRecipe, "tokens"
    own_groups = {
        "data": (
            *("corpus", "corpus_weights", "text_field", "dataset_config", "dataset_split", "dataset_revision"),
            *("deduplicate", "split", "split_fractions", "shuffle", "document_masking"),
        ),
        "tokenizer": ("tokenizer", "eos_token"),
        "batch": ("tokens_per_step",),
    }
    fixed_groups = {"model": tuple(PretrainingRecipe.parts()["model"])}
    arguments = {"remove_unused_columns": False}
    figures = {"eval_loss": "nats per token", "eval_bits_per_byte": "bits per byte"}

    def __init__(self, recipe: PretrainingRecipe, verify_data: bool = False):
        super().__init__(recipe)
        self.verify_data = verify_data
        self.length = recipe.model.max_position_embeddings

    def is_the_same(self, name: str, data: dict[str, Any]) -> bool:
        """The corpus is, where it names that same data, wherever it lies now."""
        corpora = self.recipe.data.corpora if name == "corpus" else []
        prepared = data_record(Path(corpora[0])) if len(corpora) == 1 else None
        return prepared is not None and prepared | {"folder": ""} == data | {"folder": ""}

    def check(self, processes: int) -> None:
        asked = self.recipe.training["per_device_train_batch_size"]
        self._accumulation(1 if asked == "auto" else asked, processes)

    def batch(self, device: torch.device, processes: int, recorded: int | None) -> tuple[int, int]:
        micro_batch = choose_micro_batch(self.recipe, processes, device, recorded)
        return micro_batch, self._accumulation(micro_batch, processes)

    def _accumulation(self, micro_batch: int, processes: int) -> int:
        return accumulation_steps(self.recipe.pretraining.tokens_per_step, micro_batch, self.length, processes)

    def prepare(self, begun_on: dict[str, Any] | None, say: Say) -> dict[str, Any]:
        vocab_size = self.recipe.model.vocab_size
        self.shards = prepare_shards(self.recipe.data, vocab_size, self.length, say, self.verify_data, begun_on)
        self.shares = corpus_windows(self.shards, self.recipe.data.corpus_weights, self.length)
        return data_record(self.shards.folder)

    def _windows(self, part: str) -> TokenWindows:
        start = self.shards.tokenizer.eos_token_id if self.recipe.data.document_masking else None
        return TokenWindows(self.shards.tokens(part), self.length, keep_tail=part != "train", document_start=start)

    def hashes(self, data: dict[str, Any]) -> dict[str, str]:
        return {"data": data["corpus"]["sha256"], "tokenizer": data["tokenizer_sha256"]}

    def num_examples(self) -> int:
        return len(self._windows("train"))

    def step_size(self, examples: int) -> int:
        return examples * self.length

    def make_model(self) -> GPTScratchForCausalLM:
        model = initial_model(self.recipe, self.shards.tokenizer)
        # `pipeline` and `generate` continue up to what the model can hold, whoever does not say how far.
        model.generation_config.max_length = self.length
        self.shards.tokenizer.model_max_length = self.length
        return model

    def flops_per_unit(self, model: GPTScratchForCausalLM) -> float:
        return model_flops_per_token(model.config)

    def make_trainer(self, model: GPTScratchForCausalLM, args: TrainingArguments, **run: Any) -> GPTScratchTrainer:
        windows = self._windows("train")
        visited = args.max_steps * self.recipe.pretraining.tokens_per_step // self.length
        seed = args.seed if args.data_seed is None else args.data_seed
        if leads():
            for line in describe_shares(self.shares, visited):
                print(line)
        weighted = self.shares if self.recipe.data.corpus_weights else None
        return GPTScratchTrainer(
            model=model,
            args=args,
            train_dataset=windows,
            eval_dataset=self._windows("validation"),
            processing_class=self.shards.tokenizer,
            order=WindowOrder(len(windows), visited, seed, self.recipe.data.shuffle, weighted),
            eval_utf8_bytes=self.shards.utf8_bytes("validation"),
            **run,
        )

    def measure(self, trainer: GPTScratchTrainer) -> dict[str, float]:
        validation = trainer.evaluation_of(trainer.args.max_steps) or trainer.evaluate()
        bytes_of_test = self.shards.utf8_bytes("test")
        return validation | trainer.evaluate(self._windows("test"), metric_key_prefix="test", utf8_bytes=bytes_of_test)
