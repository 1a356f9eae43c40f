"""The model with int8 weights by torchao: which of its layers, how far the logits move, and what a folder keeps."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("torchao", reason="needs the extra 'quantize'")

from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, TorchAoConfig

from tests.modeling.comparison import PROJECTIONS

WAYS = pytest.mark.parametrize("way", [Int8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig])
TIED = pytest.mark.parametrize("tied", [True, False])


@pytest.fixture
def load(tiny_model, tmp_path):
    """Saves a small model; loads it whole and quantised."""

    def build(way, tied: bool):
        whole = tiny_model(tie_word_embeddings=tied)
        whole.save_pretrained(tmp_path / "model")
        # False: the compiler's settings belong to the whole process, and so to the other tests.
        config = TorchAoConfig(way(version=2, set_inductor_config=False))
        quantised = AutoModelForCausalLM.from_pretrained(tmp_path / "model", quantization_config=config)
        return whole, quantised.eval()

    return build


@torch.no_grad()
def logits(model, input_ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids).logits


@WAYS
@TIED
def test_every_projection_is_int8_and_nothing_else(load, way, tied):
    _, model = load(way, tied)
    quantised = {
        name for name, weight in model.named_parameters() if type(weight.data).__module__.startswith("torchao")
    }
    assert quantised == {f"model.layers.{layer}.{name}.weight" for layer in (0, 1) for name in PROJECTIONS}
    for name in quantised:
        assert model.get_parameter(name).qdata.dtype == torch.int8
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


@WAYS
@TIED
def test_logits_stay_close(load, way, tied):
    whole, quantised = load(way, tied)
    input_ids = torch.randint(128, (4, 32))
    expected, actual = logits(whole, input_ids), logits(quantised, input_ids)
    # Rounding to 255 steps over the range of a row costs each weight (and activation) about half a percent of the row's
    # largest; over all layers that comes to 1% to 2% of the spread of the logits. A wrong scale costs all of it.
    assert 0 < (actual - expected).std() / expected.std() < 0.03
    # In nats per token, what it costs where the unquantised model is right.
    divergence = F.kl_div(actual.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert divergence.mean() < 1e-3


@WAYS
def test_a_quantised_model_generates_with_its_cache_as_without(load, way):
    _, model = load(way, True)
    prompt = torch.randint(128, (1, 8))
    options = {"max_new_tokens": 8, "do_sample": False}
    generated = model.generate(prompt, use_cache=True, **options)
    assert generated.shape == (1, 16)
    # Greedy: every new token is the most likely one after the tokens before it.
    assert torch.equal(generated[:, 8:], logits(model, generated)[:, 7:-1].argmax(-1))


@WAYS
@TIED
def test_a_quantised_folder_opens_quantised_with_the_same_logits(load, way, tied, tmp_path):
    _, model = load(way, tied)
    model.save_pretrained(tmp_path / "int8")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "int8").eval()
    assert type(again.model.layers[0].mlp.fc_in.weight.data).__module__.startswith("torchao")
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    input_ids = torch.randint(128, (2, 16))
    torch.testing.assert_close(logits(again, input_ids), logits(model, input_ids))
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("model", "int8")}
    assert sizes["int8"] < sizes["model"]
