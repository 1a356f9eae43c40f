"""`generate` with caches: the same tokens whichever cache holds the past and however the prompt is computed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import Cache, QuantizedLayer

from tests.modeling.comparison import generate, random_ids


@pytest.mark.parametrize(
    "options",
    [{}, {"cache_implementation": "static"}, {"use_cache": False}],
    ids=["dynamic cache", "static cache", "no cache"],
)
def test_a_left_padded_batch_generates_what_each_row_generates_alone(options, tiny_model):
    model = tiny_model(pad_token_id=0)
    options = {"max_new_tokens": 10, "do_sample": False, **options}
    prompts = [random_ids(1, length) for length in (3, 8, 5)]
    batch = torch.cat([F.pad(prompt, (8 - prompt.shape[1], 0), value=0) for prompt in prompts])
    mask = torch.cat([F.pad(torch.ones_like(prompt), (8 - prompt.shape[1], 0)) for prompt in prompts])
    together = model.generate(batch, attention_mask=mask, **options)[:, 8:]
    alone = [
        model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[:, prompt.shape[1] :]
        for prompt in prompts
    ]
    assert together.shape == (3, 10)
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 3},
        {"prefill_chunk_size": 3, "cache_implementation": "static"},
        {"logits_to_keep": 4},
        pytest.param(
            {"cache_implementation": "offloaded"},
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="copies keys and values on a CUDA stream"),
        ),
        pytest.param(
            {"cache_implementation": "offloaded_static"},
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="copies keys and values on a CUDA stream"),
        ),
    ],
    ids=lambda options: ", ".join(f"{name}={value}" for name, value in options.items()),
)
def test_the_way_of_computing_does_not_change_the_tokens(options, tiny_model, prompts):
    model = tiny_model(pad_token_id=0)
    expected = generate(model, prompts)
    if "offloaded" in options.get("cache_implementation", ""):
        model.cuda()
        prompts = {name: tensor.cuda() for name, tensor in prompts.items()}
    assert torch.equal(generate(model, prompts, **options).cpu(), expected)


class RoundedLayer(QuantizedLayer):
    """Keeps all but the last few keys and values rounded; the arithmetic of a quantizer that needs no package."""

    def _quantize(self, tensor, axis):
        return (tensor * 2).round().to(torch.int8)

    def _dequantize(self, quantized):
        return quantized.float() / 2


def test_a_quantized_cache_gives_gpt2s_tokens(twins, prompts):
    tokens = [
        generate(model, prompts, past_key_values=Cache(layers=[RoundedLayer(residual_length=4) for _ in range(2)]))
        for model in twins
    ]
    assert torch.equal(*tokens)
    assert not torch.equal(tokens[0], generate(twins[0], prompts))  # rounded so roughly that it shows


def test_chunked_prefill_computes_the_prompt_in_chunks(tiny_model, prompts):
    model, lengths = tiny_model(pad_token_id=0), []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    generate(model, prompts, prefill_chunk_size=3)
    assert lengths == [3, 3, 1] + [1] * 11


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_a_conversation_continues_from_its_cache(kind, tiny_model, prompts):
    model = tiny_model(pad_token_id=0)
    cache = kind(config=model.config, **{"max_cache_len": 64} if kind is StaticCache else {})
    turn, lengths = prompts, []
    for _ in range(3):
        expected = generate(model, turn)
        hook = model.model.register_forward_pre_hook(
            lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        answer = generate(model, turn, past_key_values=cache)
        hook.remove()
        assert torch.equal(answer, expected)
        said = torch.randint(1, 128, (2, 2))
        ids = torch.cat([answer, said], dim=1)
        turn = {"input_ids": ids, "attention_mask": F.pad(turn["attention_mask"], (0, 14), value=1)}
    # Of each turn, only what was said since, and the last token of the answer, which nobody had read yet.
    assert lengths == [7, *[1] * 11, 3, *[1] * 11, 3, *[1] * 11]


@torch.no_grad()
def test_a_prompt_computed_once_serves_many_continuations(tiny_model, prompt):
    model = tiny_model(pad_token_id=0)
    beginning = DynamicCache(config=model.config)
    model(**prompt, past_key_values=beginning)
    for _ in range(3):
        ids = torch.cat([prompt["input_ids"], random_ids(1, 2)], dim=1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        tokens = generate(model, inputs, past_key_values=copy.deepcopy(beginning))
        assert torch.equal(tokens, generate(model, inputs))


def test_beams_reorder_the_cache(tiny_model):
    model, input_ids = tiny_model(pad_token_id=0), random_ids(1, 5)
    options = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(input_ids, **options), model.generate(input_ids, use_cache=False, **options))
