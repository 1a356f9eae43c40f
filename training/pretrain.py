"""
`python -m training pretrain RECIPE.yaml [--field value ...]`: text in, a model folder out. The model begins with random
weights, or goes on from those that `--init_from MODEL` names.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from configuration.pretraining import PretrainingRecipe
from configuration.recipe import portable
from modeling_gpt_scratch import GPTScratchForCausalLM

from .data.mixture import corpus_windows, describe_shares
from .data.preparation import add_verify_argument, prepare_shards
from .data.shards import data_record
from .data.tokenizer import load_tokenizer
from .data.windows import TokenWindows, WindowOrder
from .errors import InputError
from .optimization.initialization import continued_model, initial_model
from .optimization.steps import accumulation_steps
from .parent import (
    check_tokenizer,
    describe_parent,
    in_words,
    is_still,
    open_parent,
    tokenizer_of_parent,
)
from .planning.dry_run import print_plan
from .planning.flops import model_flops_per_token
from .planning.micro_batch import choose_micro_batch
from .processes import leads, on_every_process, process_count
from .run.checkpoints import MANIFEST, problems_of
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
    """A model from its initial weights or another model's, trained on windows of a text's tokens.

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
    fixed_groups = {
        "model": (*PretrainingRecipe.parts()["model"], "init_from", "init_from_revision", "new_positions"),
    }
    arguments = {"remove_unused_columns": False}
    figures = {"eval_loss": "nats per token", "eval_bits_per_byte": "bits per byte"}

    def __init__(self, recipe: PretrainingRecipe, verify_data: bool = False):
        super().__init__(recipe)
        self.verify_data = verify_data
        self.length = recipe.model.max_position_embeddings

    def is_the_same(self, name: str, record: dict[str, Any]) -> bool:
        """The corpus is, where it names that same data, wherever it lies now; so is a parent with the same weights."""
        if name == "corpus":
            corpora = self.recipe.data.corpora
            prepared = data_record(Path(corpora[0])) if len(corpora) == 1 else None
            return prepared is not None and prepared | {"folder": ""} == record["data"] | {"folder": ""}
        init_from, parent = self.recipe.pretraining.init_from, record.get("parent")
        if init_from is None or parent is None:
            return False
        follows_from_it = name in ("init_from", "init_from_revision")
        follows_from_it |= name == "tokenizer" and self.recipe.data.tokenizer == init_from
        return follows_from_it and is_still(self.recipe, parent)

    def hidden_changes(self, record: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Of a path from the root, recipe.yaml has no more than the end, which may be that of another model's too."""
        name, parent = self.recipe.pretraining.init_from, record.get("parent")
        if name is None or parent is None or portable(name) == name or not Path(name).exists():
            return {}
        return {} if is_still(self.recipe, parent) else {"init_from": (parent["name"], name)}

    def check(self, processes: int) -> None:
        asked = self.recipe.training["per_device_train_batch_size"]
        self._accumulation(1 if asked == "auto" else asked, processes)

    def batch(self, device: torch.device, processes: int, recorded: int | None) -> tuple[int, int]:
        micro_batch = choose_micro_batch(self.recipe, processes, device, recorded)
        return micro_batch, self._accumulation(micro_batch, processes)

    def _accumulation(self, micro_batch: int, processes: int) -> int:
        return accumulation_steps(self.recipe.pretraining.tokens_per_step, micro_batch, self.length, processes)

    def parent(self) -> dict[str, Any] | None:
        init_from, tokenizer = self.recipe.pretraining.init_from, self.recipe.data.tokenizer
        if init_from is None:
            return None
        if (Path(init_from) / MANIFEST).is_file() and (problems := problems_of(Path(init_from))):
            raise InputError(f"init_from {init_from} cannot be used: {'; '.join(problems)}")
        parent = describe_parent(self.recipe)
        if tokenizer != init_from:
            check_tokenizer(self.recipe, parent, load_tokenizer(tokenizer, self.recipe.data.eos_token))
        elif tokenizer_of_parent(self.recipe, parent["revision"]) is None:
            raise InputError(f"{init_from} holds no tokenizer: name by `tokenizer` the one that it was trained with")
        print(f"continuing {init_from}{in_words(parent)}")
        return parent

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

    def make_model(self, parent: dict[str, Any] | None) -> GPTScratchForCausalLM:
        model = initial_model(self.recipe, self.shards.tokenizer) if parent is None else self._continued(parent)
        # `pipeline` and `generate` continue up to what the model can hold, whoever does not say how far.
        model.generation_config.max_length = self.length
        self.shards.tokenizer.model_max_length = self.length
        return model

    def _continued(self, parent: dict[str, Any]) -> GPTScratchForCausalLM:
        opened: list[GPTScratchForCausalLM] = []

        def open_here() -> None:
            # Prepared data, which the corpus may be, has brought a tokenizer of its own.
            check_tokenizer(self.recipe, parent, self.shards.tokenizer)
            opened.append(open_parent(self.recipe, parent))

        on_every_process(open_here)
        return continued_model(self.recipe, self.shards.tokenizer, opened.pop())

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
