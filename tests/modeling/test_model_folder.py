"""How models and other folders are written: complete or absent, and opened again."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from modeling_gpt_scratch import GPTScratchForCausalLM, durable
from modeling_gpt_scratch.durable import atomic_folder, clear_leftovers, write_durably
from modeling_gpt_scratch.model_folder import ModelFolderError, fresh_model, write_model_folder

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "wrapper", ["", "_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.", "_fsdp_wrapped_module."]
)
def test_a_wrapped_models_weights_become_a_folder_that_opens_as_the_model(wrapper, tied, tiny_model, tmp_path):
    model = tiny_model(tie_word_embeddings=tied)
    state_dict = {wrapper + name: tensor for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    fresh = fresh_model(GPTScratchForCausalLM, model.config, state_dict, model.generation_config)
    write_model_folder(tmp_path / "model", fresh)
    assert torch.equal(torch.get_rng_state(), random_state)  # saving must not change what a run does next
    opened, found = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(found.values())
    torch.testing.assert_close(logits(opened), logits(model), atol=1e-6, rtol=0)  # another kernel, at the most
    assert (tmp_path / "model" / "modeling_gpt_scratch.py").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_wrappers_subclass_leaves_no_trace(tiny_model, tmp_path):
    model = tiny_model()
    sharded = type("FSDPGPTScratchForCausalLM", (GPTScratchForCausalLM,), {"__module__": "torch._fsdp_init"})
    model.__class__ = sharded
    fresh = fresh_model(GPTScratchForCausalLM, model.config, model.state_dict())
    write_model_folder(tmp_path / "model", fresh)
    assert "FSDP" not in (tmp_path / "model" / "config.json").read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weights_keep_their_type(dtype, tiny_model, tmp_path):
    model = tiny_model().to(dtype)
    write_model_folder(tmp_path / "model", fresh_model(GPTScratchForCausalLM, model.config, model.state_dict()))
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in written.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.norm.weight"), "1 missing: model.norm.weight"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "1 unknown: extra"),
    ],
)
def test_weights_that_are_not_those_of_the_model_are_refused(change, message, tiny_model):
    weights = dict(tiny_model().state_dict())
    change(weights)
    with pytest.raises(ModelFolderError, match=message):
        fresh_model(GPTScratchForCausalLM, tiny_model().config, weights)


def lose_a_weight(weights):
    del weights["model.norm.weight"]


def alter_a_weight(weights):
    weights["model.norm.weight"] += 1e-2


@pytest.mark.parametrize("damage", [lose_a_weight, alter_a_weight])
@pytest.mark.parametrize("replace", [True, False])
def test_what_does_not_read_back_as_it_was_is_not_left_behind(damage, replace, tiny_model, tmp_path, monkeypatch):
    save = PreTrainedModel.save_pretrained

    def damaged(self, folder, **options):
        save(self, folder, **options)
        weights = load_file(folder / "model.safetensors")
        damage(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    if replace:
        write_model_folder(tmp_path / "model", tiny_model())
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", damaged)
    with pytest.raises(ModelFolderError, match=r"model\.norm\.weight|opened again, gives logits"):
        write_model_folder(tmp_path / "model", tiny_model(num_hidden_layers=1), replace=replace)
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if replace else [])
    if replace:
        assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.num_hidden_layers == 2


def test_a_model_of_numbers_that_are_none_is_not_written(tiny_model, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(ModelFolderError, match="nan"):
        write_model_folder(tmp_path / "model", model)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize("renamings", [0, 1, 2])
def test_a_folder_that_is_replaced_is_the_old_one_or_the_new_one(renamings, tmp_path):
    """Whenever the process dies: here before each of the two renamings, and after them."""
    folder = tmp_path / "model"
    with atomic_folder(folder) as new:
        (new / "file").write_text("old")
    child = os.fork()
    if not child:
        rename, done = type(folder).rename, []

        def dying(self, target):
            if len(done) == renamings:
                os._exit(9)
            done.append(target)
            return rename(self, target)

        type(folder).rename = dying
        with atomic_folder(folder, replace=True) as new:
            (new / "file").write_text("new")
            durable.flush = lambda path: len(done) == 2 and os._exit(9)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == (1 if renamings == 1 else 2)
    clear_leftovers(folder)
    assert (folder / "file").read_text() == ("new" if renamings == 2 else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*run\.json'"):
        write_durably(tmp_path / "run.json", "{}")


def test_weights_of_several_types_are_refused(tiny_model):
    weights = tiny_model().state_dict()
    weights["model.norm.weight"] = weights["model.norm.weight"].half()
    for state_dict, found in ((weights, "torch.float16 and torch.float32"), ({}, "no type")):
        with pytest.raises(ModelFolderError, match=f"{found}, not of one type"):
            fresh_model(GPTScratchForCausalLM, tiny_model().config, state_dict)


def test_a_decoder_without_a_head_is_written_too(tiny_model, tmp_path):
    write_model_folder(tmp_path / "model", tiny_model().model)
    assert (tmp_path / "model" / "model.safetensors").is_file()
