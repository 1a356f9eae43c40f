"""Loading: on every route the saved weights come back, and what does not fit is reported and initialised."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_gpt_scratch import GPTScratchForCausalLM, GPTScratchModel
from tests.modeling.comparison import random_ids


@pytest.fixture
def saved(tiny_model, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    return model, tmp_path


def assert_same_weights(model: torch.nn.Module, expected: torch.nn.Module) -> None:
    weights, expected_weights = model.state_dict(), expected.state_dict()
    assert weights.keys() == expected_weights.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, expected_weights[name]), name


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}], ids=str)
def test_a_device_map_changes_no_weight(device_map, saved):
    pytest.importorskip("accelerate")
    model, folder = saved
    loaded = GPTScratchForCausalLM.from_pretrained(folder, device_map=device_map)
    loaded.cpu()  # "auto" takes an accelerator where there is one
    assert_same_weights(loaded, model)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert not loaded.training


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_layer_kept_on_disk_computes_and_generates_the_same(tied, tiny_model, tmp_path):
    pytest.importorskip("accelerate")
    model, input_ids = tiny_model(tie_word_embeddings=tied, pad_token_id=0), random_ids(2, 9)
    model.save_pretrained(tmp_path / "model")
    on_cpu = ("model.embed_tokens", "model.embed_positions", "model.layers.0", "model.norm", "lm_head")
    loaded = GPTScratchForCausalLM.from_pretrained(
        tmp_path / "model",
        device_map=dict.fromkeys(on_cpu, "cpu") | {"model.layers.1": "disk"},
        offload_folder=tmp_path / "offloaded",
    )
    assert {parameter.device.type for parameter in loaded.model.layers[1].parameters()} == {"meta"}
    assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)
    options = {"attention_mask": torch.ones_like(input_ids), "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(loaded.generate(input_ids, **options), model.generate(input_ids, **options))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_model_built_on_meta_and_filled_equals_one_built_normally(tied, tiny_model):
    model, input_ids = tiny_model(tie_word_embeddings=tied), random_ids(2, 9)
    with torch.device("meta"):
        filled = GPTScratchForCausalLM(model.config)
    filled.load_state_dict(model.state_dict(), assign=True)
    filled.tie_weights()
    filled.eval()
    assert_same_weights(filled, model)
    assert (filled.lm_head.weight is filled.model.embed_tokens.weight) == tied
    assert torch.equal(filled(input_ids).logits, model(input_ids).logits)


def test_weights_in_several_files_come_back(saved, tmp_path):
    model, _ = saved
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 3
    assert_same_weights(GPTScratchForCausalLM.from_pretrained(tmp_path / "sharded"), model)


def test_weights_saved_without_a_head_load_with_one_where_it_is_tied(saved, tmp_path):
    model, folder = saved
    GPTScratchModel.from_pretrained(folder).save_pretrained(tmp_path / "base")
    loaded, info = GPTScratchForCausalLM.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert not any(info.values()), info
    assert_same_weights(loaded, model)


@pytest.mark.parametrize(
    ("asked", "expected"), [("auto", torch.bfloat16), (torch.float32, torch.float32), (torch.float16, torch.float16)]
)
def test_the_asked_precision_is_loaded(asked, expected, saved, tmp_path):
    model, _ = saved
    model.to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    loaded = GPTScratchForCausalLM.from_pretrained(tmp_path / "bf16", dtype=asked)
    assert {parameter.dtype for parameter in loaded.parameters()} == {expected}
    assert_same_weights(loaded, model.to(expected))


def test_missing_weights_are_reported_and_initialised_as_in_a_new_model(tiny_model, tmp_path):
    model = tiny_model(hidden_size=128, num_hidden_layers=4)
    model.save_pretrained(tmp_path)
    stds = {
        "model.layers.1.self_attn.o_proj.weight": 0.02 / 8**0.5,  # shrunk by the depth
        "model.layers.2.mlp.fc_out.weight": 0.02 / 8**0.5,
        "model.layers.2.mlp.fc_in.weight": 0.02,
        "model.embed_positions.weight": 0.02,
    }
    constants = {"model.layers.0.input_layernorm.weight": 1.0, "model.layers.3.mlp.fc_in.bias": 0.0}
    weights = load_file(tmp_path / "model.safetensors")
    for name in (*stds, *constants):
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})

    loaded, info = GPTScratchForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {*stds, *constants}
    for name, std in stds.items():
        # At least 64 x 128 values: the sample's standard deviation is within 0.8 % of the true one (one sigma).
        assert loaded.get_parameter(name).std().item() == pytest.approx(std, rel=0.03), name
    for name, value in constants.items():
        assert (loaded.get_parameter(name) == value).all(), name
    for name, weight in weights.items():
        assert torch.equal(loaded.get_parameter(name), weight), name


def test_weights_of_another_size_are_refused(saved):
    model, folder = saved
    model.config.vocab_size = 140
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        GPTScratchForCausalLM.from_pretrained(folder, config=model.config)


def test_weights_of_another_size_are_reported_and_initialised_on_request(saved):
    model, folder = saved
    model.config.vocab_size = 140
    loaded, info = GPTScratchForCausalLM.from_pretrained(
        folder, config=model.config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    name = "model.embed_tokens.weight"
    assert info["mismatched_keys"] == {(name, torch.Size([128, 32]), torch.Size([140, 32]))}
    # 140 x 32 values: the sample's standard deviation is within 1.1 % of the true one (one sigma).
    assert loaded.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.04)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    others = dict(model.named_parameters())
    for other, parameter in loaded.named_parameters():
        assert other == name or torch.equal(parameter, others[other]), other


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_embeddings_can_be_replaced(tied, tiny_model):
    model, embeddings = tiny_model(tie_word_embeddings=tied), torch.nn.Embedding(128, 32)
    head = model.get_output_embeddings().weight
    model.set_input_embeddings(embeddings)
    model.tie_weights()
    assert model.get_input_embeddings() is model.model.embed_tokens is embeddings
    assert model.get_output_embeddings().weight is (embeddings.weight if tied else head)
