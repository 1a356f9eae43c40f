"""A model packed for decoding writes what it wrote before, holds its weights once, and can only write."""

import pytest
import torch
from torch import nn

from modeling_gpt_scratch.conversion import to_gpt2
from training.decoding import PackedLinear, can_pack, pack_for_decoding
from training.loading import load_for_generation

pytestmark = pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="this PyTorch comes without oneDNN")
KINDS = [
    {"tie_word_embeddings": True, "qkv_bias": True},
    {"tie_word_embeddings": False, "qkv_bias": True},
    {"tie_word_embeddings": True, "qkv_bias": False},
    {"intermediate_size": 50},  # no multiple of a block
]


def packed(model: nn.Module) -> nn.Module:
    pack_for_decoding(model)
    return model


def linears_of(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module) is nn.Linear]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_tokens_stay(rows, kind, tiny_model):
    prompt = torch.randint(2, 128, (rows, 20))
    options = {"max_new_tokens": 20, "do_sample": False, "attention_mask": torch.ones_like(prompt), "pad_token_id": 0}
    expected = tiny_model(**kind).generate(prompt, **options)
    model = packed(tiny_model(**kind))
    assert not linears_of(model)
    assert torch.equal(model.generate(prompt, **options), expected)
    assert torch.equal(model.generate(prompt, prefill_chunk_size=7, **options), expected)


@torch.no_grad()
def test_logits_differ_by_the_order_of_summation_alone(tiny_model):
    ids = torch.randint(128, (2, 40))
    # float32 sums of up to 128 products, in another order, through two layers
    torch.testing.assert_close(packed(tiny_model())(ids).logits, tiny_model()(ids).logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_no_plain_weight_is_kept_but_the_embeddings(tied, tiny_model):
    model = packed(tiny_model(tie_word_embeddings=tied))
    matrices = {name for name, tensor in model.state_dict().items() if not tensor.is_mkldnn and tensor.ndim == 2}
    assert matrices == {"model.embed_tokens.weight", "model.embed_positions.weight"}
    assert model.get_input_embeddings().weight.shape == (128, 32)
    assert model.device == torch.device("cpu")


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_it_is_neither_trained_nor_saved_without_its_weights(tiny_model, tmp_path):
    model, ids = packed(tiny_model()), torch.arange(8)[None]
    with pytest.raises(RuntimeError, match="does not require grad"):
        model(ids, labels=ids).loss.backward()
    with pytest.raises(NotImplementedError, match="Opaque"):
        model.save_pretrained(tmp_path / "saved")


def test_only_our_model_in_float32_on_a_cpu_is_packed(tiny_model):
    for model in (to_gpt2(tiny_model()), tiny_model().bfloat16(), tiny_model().to("meta")):
        before = linears_of(model)
        assert linears_of(packed(model)) == before != []
        assert any(parameter.requires_grad for parameter in model.parameters())


def test_models_that_are_opened_for_generation_are_packed(finished_run):
    model, _ = load_for_generation(str(finished_run / "model"))
    on_cpu = model.device.type == "cpu"
    assert isinstance(model.lm_head, PackedLinear) == on_cpu
    assert not (on_cpu and linears_of(model))
