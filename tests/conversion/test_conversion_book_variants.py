"""The book's models as readers change them: the bonus chapters' names, and weights in several dtypes."""

import pytest
import torch
from safetensors.torch import load_file

from modeling_gpt_scratch import GPTScratchForCausalLM
from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import convert
from tests.conversion.conversions import TOLERANCE, book_model, write_source


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("own_norms", [False, True])
def test_names_of_the_bonus_chapters_faster_model_are_read(tmp_path, input_ids, own_norms, qkv_bias):
    source, config = book_model(qkv_bias=qkv_bias)
    weights = source.state_dict()
    for layer in range(2):
        attention = f"trf_blocks.{layer}.att"
        for end in ("weight", "bias") if qkv_bias else ("weight",):
            parts = [weights.pop(f"{attention}.W_{kind}.{end}") for kind in ("query", "key", "value")]
            weights[f"{attention}.qkv.{end}"] = torch.cat(parts)
        for end in ("weight", "bias"):
            weights[f"{attention}.proj.{end}"] = weights.pop(f"{attention}.out_proj.{end}")
    if not own_norms:  # torch.nn.LayerNorm
        weights = {name.replace(".scale", ".weight").replace(".shift", ".bias"): weights[name] for name in weights}
    assert convert(write_source(tmp_path, weights, config), tmp_path / "output") < TOLERANCE
    model = GPTScratchForCausalLM.from_pretrained(tmp_path / "output")
    assert model.config.qkv_bias is qkv_bias
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids).logits, source(input_ids), atol=TOLERANCE, rtol=0)


def test_mixed_dtypes_are_raised_to_the_widest_and_told(tmp_path, capsys, book):
    weights = {name: tensor if "norm" in name else tensor.bfloat16() for name, tensor in book[0].state_dict().items()}
    path = write_source(tmp_path, weights, book[1])
    assert main(["convert", str(path), str(tmp_path / "output")]) == 0
    assert "are of torch.bfloat16 and torch.float32: all were raised to torch.float32." in capsys.readouterr().out
    written = load_file(tmp_path / "output" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float32}
    assert torch.equal(written["model.embed_tokens.weight"], weights["tok_emb.weight"].float())


def test_dtype_of_a_mask_is_not_spoken_of(tmp_path, capsys, book):
    weights = {name: tensor if "mask" in name else tensor.bfloat16() for name, tensor in book[0].state_dict().items()}
    convert(write_source(tmp_path, weights, book[1]), tmp_path / "output", report=print)
    assert "raised" not in capsys.readouterr().out
    written = load_file(tmp_path / "output" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}


def test_narrower_head_that_equals_the_embedding_is_tied(tmp_path):
    source, config = book_model(tie_weights=True)
    weights = source.bfloat16().float().state_dict()
    weights["out_head.weight"] = weights["tok_emb.weight"].bfloat16()
    convert(write_source(tmp_path, weights, config), tmp_path / "output")
    assert GPTScratchForCausalLM.from_pretrained(tmp_path / "output").config.tie_word_embeddings
