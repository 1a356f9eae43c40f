"""The model that a run begins with."""

import math

import pytest
import torch
from torch import nn

from configuration.pretraining import PretrainingRecipe
from modeling_gpt_scratch import GPTScratchForCausalLM
from training.optimization.initialization import initial_model, initialize_like_pytorch, padded_vocab_size

WIDTH = 128


@pytest.fixture
def build(tokenizer):
    """The initial model of a small recipe; settings can be overridden."""

    def build(**settings) -> GPTScratchForCausalLM:
        fields = {"model": "demo", "corpus": "x", "tokens_per_step": 64, "output_dir": "x", "vocab_size": 400}
        fields |= {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "initialization": "pytorch"}
        return initial_model(
            PretrainingRecipe.load(None, {name: str(v) for name, v in (fields | settings).items()}), tokenizer
        )

    return build


@pytest.mark.parametrize("tied", ["true", "false"])
def test_embeddings_begin_standard_normal(tied, build):
    model = build(tie_word_embeddings=tied)
    for embedding in (model.model.embed_tokens, model.model.embed_positions):
        assert abs(embedding.weight.mean()) < 0.02
        assert embedding.weight.std().item() == pytest.approx(1, abs=0.02)
        assert embedding.weight.abs().max() > 3  # no uniform distribution
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (tied == "true")


def test_linear_layers_begin_uniform_within_one_over_the_root_of_their_inputs(build):
    model = build(tie_word_embeddings="false", qkv_bias="true")
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 3 * 6 + 1
    for linear in linears:
        bound = 1 / math.sqrt(linear.in_features)
        assert linear.weight.abs().max() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        if linear.bias is not None:
            assert linear.bias.abs().max() <= bound
            assert linear.bias.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.25)  # 128 values


def test_norms_begin_at_one_and_zero(build):
    model = build()
    initialize_like_pytorch(model)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 7
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_gpt2s_weights_are_small_and_smaller_before_the_residual_stream(build):
    model = build(initialization="gpt2")
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.model.layers[0].mlp.fc_out.weight.std().item() == pytest.approx(0.02 / math.sqrt(6), rel=0.03)
    assert (model.model.layers[0].mlp.fc_out.bias == 0).all()


def test_the_first_loss_tells_the_initialisations_apart(build):
    ids = torch.randint(400, (4, 64))
    losses = {
        name: build(**settings)(ids, labels=ids).loss.item()
        for name, settings in {
            "gpt2": {"initialization": "gpt2"},
            "untied": {"tie_word_embeddings": "false"},
            "tied": {},
        }.items()
    }
    assert losses["gpt2"] == pytest.approx(math.log(400), abs=0.1)
    assert losses["untied"] == pytest.approx(math.log(400), abs=0.4)
    assert losses["tied"] > 40  # the logits of a normal head grow with the root of the width


def test_the_weights_have_a_seed_of_their_own(build):
    def weight(**seeds):
        return build(**seeds).model.embed_tokens.weight

    assert torch.equal(weight(seed=1), weight(seed=1))
    assert not torch.equal(weight(seed=1), weight(seed=2))
    assert torch.equal(weight(seed=1, initialization_seed=3), weight(seed=2, initialization_seed=3))
    assert torch.equal(weight(seed=1, initialization_seed=2), weight(seed=2))


@pytest.mark.parametrize(
    ("vocab_size", "multiple", "padded"), [(50257, 128, 50304), (50304, 128, 50304), (1, 128, 128), (400, None, 400)]
)
def test_a_vocabulary_is_rounded_up(vocab_size, multiple, padded):
    assert padded_vocab_size(vocab_size, multiple) == padded


def test_padding_widens_the_model_and_leaves_the_tokenizer(build, tokenizer):
    model = build(pad_vocab_to_multiple_of=128, initialization="gpt2")
    assert model.config.vocab_size == model.lm_head.out_features == 512
    assert (len(tokenizer), model.config.eos_token_id) == (400, tokenizer.eos_token_id)
