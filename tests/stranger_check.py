"""
Opens a model folder as people without this project do, and tries all that a release of the library can break.

    python -I tests/stranger_check.py FOLDER AGAIN     saves the model again as AGAIN; exit code 1 where something fails

It needs torch, transformers and accelerate alone, so it also tries releases that the rest of the tests do not know.
"""

import importlib
import inspect
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
PACKAGES = ("transformers", "torch", "huggingface_hub", "tokenizers", "safetensors", "accelerate")

# All that the published files take from the library, by module; what is in brackets belongs to the name before it.
FROM_THE_LIBRARY = {
    "huggingface_hub.dataclasses": ["strict"],
    "transformers": [
        "GenerationMixin",
        "PreTrainedConfig",
        "PreTrainedModel (_init_weights, post_init, loss_function, is_remote_code)",
    ],
    "transformers.activations": ["ACT2FN"],
    "transformers.cache_utils": ["Cache (update, get_seq_length, get_max_length)", "DynamicCache"],
    "transformers.initialization": ["normal_"],
    "transformers.masking_utils": ["create_causal_mask"],
    "transformers.modeling_layers": ["GenericForTokenClassification", "GradientCheckpointingLayer"],
    "transformers.modeling_outputs": [
        "BaseModelOutputWithPast",
        "CausalLMOutputWithPast",
        "SequenceClassifierOutputWithPast",
        "TokenClassifierOutput",
    ],
    "transformers.modeling_utils": ["ALL_ATTENTION_FUNCTIONS (get_interface)"],
    "transformers.processing_utils": ["Unpack"],
    "transformers.utils": ["ModelOutput", "TransformersKwargs", "can_return_tuple"],
    "transformers.utils.generic": ["merge_with_config_defaults"],
    "transformers.utils.output_capturing": ["capture_outputs"],
}
PROMPTS = ["The", "The lamp is", "Who sees the light that burns?"]


def names_that_are_missing() -> list[str]:
    """What of `FROM_THE_LIBRARY` the installed release does not have."""
    missing = []
    for module, entries in FROM_THE_LIBRARY.items():
        for entry in entries:
            name, _, attributes = entry.rstrip(")").partition(" (")
            try:
                found = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError):
                missing.append(f"{module}.{name}")
                continue
            missing += [
                f"{module}.{name}.{part}" for part in attributes.split(", ") if part and not hasattr(found, part)
            ]
    return missing


@contextmanager
def no_deprecations() -> Iterator[None]:
    """Fails where the library says, in a warning or in its log, that something will be taken away."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        logger.removeHandler(handler)
    said += [str(warning.message) for warning in caught if issubclass(warning.category, FutureWarning)]
    deprecations = [text for text in said if "deprecat" in text and "torch." not in text]
    assert not deprecations, deprecations


class Check:
    """One folder, opened."""

    def __init__(self, folder: str):
        import torch
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.folder, self.trust = folder, {"trust_remote_code": True}
        self.config = AutoConfig.from_pretrained(folder, **self.trust)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **self.trust)
        self.base = AutoModel.from_pretrained(folder, **self.trust)
        self.model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **self.trust)
        assert not any(loading.values()), loading
        for thing in (self.config, self.base, self.model):
            assert type(thing).__module__.startswith("transformers_modules"), type(thing)

    def generate(self, prompts: list[str], **options) -> list[list[int]]:
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        with no_deprecations():
            tokens = self.model.generate(**batch, **{"max_new_tokens": 8, "do_sample": False} | options)
        return tokens[:, batch["input_ids"].shape[1] :].tolist()

    def every_cache_gives_the_same_tokens(self) -> None:
        expected = self.generate(PROMPTS, use_cache=False)
        for kind in (None, "dynamic", "static"):
            assert self.generate(PROMPTS, cache_implementation=kind) == expected, kind
        alone = [self.generate([prompt])[0] for prompt in PROMPTS]
        assert alone == expected, "a padded batch writes other tokens than its rows alone"

    def the_cache_goes_by_both_names(self) -> None:
        import torch
        from transformers import DynamicCache, StaticCache

        input_ids = self.tokenizer(PROMPTS[2], return_tensors="pt")["input_ids"]
        for either in (self.model, self.base):
            key = "logits" if either is self.model else "last_hidden_state"
            with torch.no_grad(), no_deprecations():
                expected = either(input_ids, use_cache=False)[key]
                for name in ("past_key_values", "cache"):
                    for cache in (DynamicCache(), StaticCache(config=self.config, max_cache_len=32)):
                        parts = [either(part, **{name: cache})[key] for part in input_ids.split(4, dim=1)]
                        difference = (torch.cat(parts, dim=1) - expected).abs().max().item()
                        assert difference < 1e-5, (name, type(cache), difference)  # fp32, another order of summation
            refused = False
            try:
                either(input_ids, past_key_values=DynamicCache(), cache=DynamicCache())
            except ValueError as error:
                refused = "two names of the same thing" in str(error)
            assert refused, "two caches at once"

    def the_pipeline_writes(self) -> None:
        from transformers import pipeline

        write = pipeline("text-generation", model=self.folder, device="cpu", **self.trust)
        (answer,) = write(PROMPTS[1], max_new_tokens=6, do_sample=False)
        assert len(answer["generated_text"]) > len(PROMPTS[1])
        write(PROMPTS[1], do_sample=False)  # told no length, it must stop at the model's last position

    def classifiers_open(self) -> None:
        from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, DynamicCache

        batch = self.tokenizer(PROMPTS, return_tensors="pt", padding=True)
        for auto_class, shape in (
            (AutoModelForSequenceClassification, (3, 2)),
            (AutoModelForTokenClassification, (*batch["input_ids"].shape, 2)),
        ):
            with no_deprecations():
                model = auto_class.from_pretrained(self.folder, num_labels=2, **self.trust)
                for cache in ({}, {"past_key_values": DynamicCache()}, {"cache": DynamicCache()}):
                    assert model(**batch, **cache).logits.shape == shape

    def the_trainer_trains(self) -> None:
        """Two steps with gradient checkpointing; what it saves opens and is what it trained."""
        import torch
        from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments

        model = AutoModelForCausalLM.from_pretrained(self.folder, **self.trust)
        model.gradient_checkpointing_enable()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        with tempfile.TemporaryDirectory() as place, no_deprecations():
            arguments = TrainingArguments(place, max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True)
            trainer = Trainer(
                model,
                arguments,
                train_dataset=[self.tokenizer(prompt) for prompt in PROMPTS],
                eval_dataset=[self.tokenizer(prompt) for prompt in PROMPTS],
                data_collator=DataCollatorForLanguageModeling(self.tokenizer, mlm=False),
                processing_class=self.tokenizer,
            )
            trainer.train()
            assert trainer.evaluate()["eval_loss"] > 0
            trainer.save_model()
            opened = AutoModelForCausalLM.from_pretrained(place, **self.trust)
        unmoved = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
        assert not unmoved, unmoved
        for name, parameter in model.named_parameters():
            assert torch.equal(opened.get_parameter(name), parameter), name

    def it_is_saved_again(self, again: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.model.save_pretrained(again)
        self.tokenizer.save_pretrained(again)
        for file in Path(self.folder).glob("*.py"):
            assert (Path(again) / file.name).read_bytes() == file.read_bytes(), file.name
        opened = AutoModelForCausalLM.from_pretrained(again, **self.trust)
        input_ids = self.tokenizer(PROMPTS[2], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert torch.equal(opened(input_ids).logits, self.model(input_ids).logits)


def failures(folder: str, again: str) -> list[str]:
    """A line for each thing that does not work."""
    missing = names_that_are_missing()
    if missing:
        return [f"the library no longer has {', '.join(missing)}"]
    found: list[str] = []

    def attempt(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:  # whatever the library raises is the finding
            lines = str(error).strip().splitlines() or ["no message"]
            found.append(f"{getattr(step, '__name__', 'opening')}: {type(error).__name__}: {lines[0]}")

    check = attempt(lambda: Check(folder))
    if check is None:
        return found
    for _, step in inspect.getmembers(check, inspect.ismethod):
        if not step.__name__.startswith("_") and not inspect.signature(step).parameters:
            attempt(step)
    attempt(lambda: check.it_is_saved_again(again))
    return found


def main(folder: str, again: str) -> int:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    found = failures(folder, again)
    print(f"{'FAILED' if found else 'opens'}: {versions}", flush=True)
    for line in found:
        print(f"  {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
