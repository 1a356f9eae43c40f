"""The model under PEFT: where LoRA goes, what it trains, and what is left after merging."""

import json

import pytest
import torch

pytest.importorskip("peft", reason="needs the extra 'finetune'")

from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model

from modeling_gpt_scratch import (
    GPTScratchForCausalLM,
    GPTScratchForSequenceClassification,
    GPTScratchForTokenClassification,
)
from modeling_gpt_scratch.modeling_gpt_scratch import CACHE_NAME
from tests.modeling.comparison import PROJECTIONS
from tests.strangers import run_as_stranger

# Merged weights add the product once to the weight, an adapter adds it to every output: another order of roundings.
MERGED = {"atol": 1e-4, "rtol": 1e-4}

STRANGER = """
import json
import sys

import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
input_ids = torch.tensor(json.loads(sys.argv[1]))
adapted = AutoPeftModelForCausalLM.from_pretrained("adapter", trust_remote_code=True)
merged = AutoModelForCausalLM.from_pretrained("merged", trust_remote_code=True)
again = adapted.merge_and_unload()
again.save_pretrained("merged_again")
reloaded = AutoModelForCausalLM.from_pretrained("merged_again", trust_remote_code=True)
with torch.no_grad():
    models = {"merged": merged, "merged_again": again, "reloaded": reloaded}
    logits = {name: model(input_ids).logits.tolist() for name, model in models.items()}
print(json.dumps({"classes": [type(model).__module__ for model in models.values()], **logits}))
"""


@pytest.fixture
def base(tiny_model, tmp_path):
    """Builds a small model that has a folder, as the base of every adapter has."""

    def build(**overrides) -> GPTScratchForCausalLM:
        tiny_model(**overrides).save_pretrained(tmp_path / "base")
        return GPTScratchForCausalLM.from_pretrained(tmp_path / "base")

    return build


def lora(**options) -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4, lora_alpha=8, **options)


def train(model, input_ids: torch.Tensor, steps: int = 12) -> list[float]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    model.train()
    losses = []
    for _ in range(steps):
        loss = model(input_ids, labels=input_ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def some_tokens(vocab_size: int = 128) -> torch.Tensor:
    return torch.randint(vocab_size, (4, 16))


@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_means_every_projection_of_every_layer_and_not_the_head(base, tied):
    model = get_peft_model(base(tie_word_embeddings=tied), lora())
    adapted = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert adapted == {f"base_model.model.model.layers.{layer}.{name}" for layer in (0, 1) for name in PROJECTIONS}


@pytest.mark.parametrize(
    ("head", "options"),
    [
        (GPTScratchForSequenceClassification, {"task_type": "SEQ_CLS"}),
        # PEFT takes every class's head of this kind for one more linear layer, unless it is told.
        (GPTScratchForTokenClassification, {"task_type": "TOKEN_CLS", "exclude_modules": ["score"]}),
    ],
)
def test_a_classifier_gets_adapters_in_its_layers_and_trains_its_head_whole(tiny_config, head, options):
    model = head(tiny_config(num_labels=3, pad_token_id=0))
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", r=4, **options))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in trained if ".lora_A." in name or ".lora_B." in name}
    layers = {f"base_model.model.model.layers.{layer}.{name}" for layer in (0, 1) for name in PROJECTIONS}
    assert {name.split(".lora_")[0] for name in adapters} == layers
    assert all(name.startswith("base_model.model.score.modules_to_save.") for name in trained - adapters)
    assert trained - adapters


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_learns_and_leaves_the_model_itself_alone(base, tied, checkpointing):
    model = get_peft_model(base(tie_word_embeddings=tied), lora())
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = train(model, some_tokens())
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if ".lora_A." in name or ".lora_B." in name}
    assert losses[-1] < 0.9 * losses[0]


def test_gradient_checkpointing_computes_layers_twice_and_changes_no_gradient(base):
    input_ids, gradients, calls = some_tokens(), [], []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = get_peft_model(base(), lora(init_lora_weights=False)).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
        calls.append([])
        model.get_base_model().model.layers[1].mlp.act_fn.register_forward_hook(lambda *_: calls[-1].append(1))
        model(input_ids, labels=input_ids).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    assert [len(forwards) for forwards in calls] == [1, 2]
    plain, checkpointed = gradients
    assert len(plain) == 2 * len(PROJECTIONS) * 2  # layers, projections, A and B
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_a_saved_adapter_gives_the_same_logits_on_the_base_model(base, tmp_path):
    model, input_ids = get_peft_model(base(), lora()), some_tokens()
    with torch.no_grad(), model.disable_adapter():
        untouched = model(input_ids).logits
    train(model, input_ids)
    model.save_pretrained(tmp_path / "adapter")
    by_hand = PeftModel.from_pretrained(
        GPTScratchForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    by_name = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = model(input_ids).logits
        assert not torch.allclose(expected, untouched, atol=0.1)
        torch.testing.assert_close(by_hand(input_ids).logits, expected)
        torch.testing.assert_close(by_name(input_ids).logits, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_added_to_the_vocabulary_are_trained_and_saved_with_the_adapter(base, tied, tmp_path):
    model = base(tie_word_embeddings=tied)
    model.resize_token_embeddings(130, mean_resizing=False)
    modules = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    adapted = get_peft_model(model, lora(modules_to_save=modules, ensure_weight_tying=tied))
    input_ids = some_tokens()
    input_ids[:, -2:] = torch.tensor([128, 129])
    losses = train(adapted, input_ids)
    assert losses[-1] < 0.9 * losses[0]
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted(input_ids).logits

    fresh = GPTScratchForCausalLM.from_pretrained(tmp_path / "base")
    fresh.resize_token_embeddings(130, mean_resizing=False)
    reloaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    merged = reloaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    final = GPTScratchForCausalLM.from_pretrained(tmp_path / "merged")
    assert final.config.vocab_size == 130
    assert (final.lm_head.weight is final.model.embed_tokens.weight) == tied
    with torch.no_grad():
        torch.testing.assert_close(final(input_ids).logits, expected, **MERGED)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_a_merged_model_is_an_ordinary_folder_for_a_process_without_this_package(base, tied, tmp_path):
    model, input_ids = get_peft_model(base(tie_word_embeddings=tied), lora()), some_tokens()
    train(model, input_ids)
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        adapted = model(input_ids).logits
        merged = model.merge_and_unload()
        expected = merged(input_ids).logits
    torch.testing.assert_close(expected, adapted, **MERGED)
    assert type(merged) is GPTScratchForCausalLM
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied
    merged.save_pretrained(tmp_path / "merged")

    report, _ = run_as_stranger(STRANGER, json.dumps(input_ids.tolist()), workplace=tmp_path)
    assert {module.split(".")[0] for module in report["classes"]} == {"transformers_modules"}
    # The same weights, code and machine; only the placement of tensors in memory may differ.
    torch.testing.assert_close(torch.tensor(report["merged"]), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(report["merged_again"]), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(report["reloaded"]), expected, atol=1e-5, rtol=0)


def test_a_prefix_writes_the_same_without_a_cache_or_is_refused(tiny_model):
    model = get_peft_model(tiny_model(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)).eval()
    input_ids = torch.tensor([[3, 5, 7, 9]])
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    without = model.generate(**inputs, **options, use_cache=False)
    if CACHE_NAME == "past_key_values":
        assert torch.equal(without, model.generate(**inputs, **options))
    else:  # PEFT 0.21 passes the prefix beside the library's own cache, where GPT-2 overlooks it
        with pytest.raises(ValueError, match="two names of the same thing"):
            model.generate(**inputs, **options)
