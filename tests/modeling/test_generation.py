"""`generate`: GPT-2's tokens under every option, whichever cache, assistant or scheduler computes them."""

import copy
import logging
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    StaticCache,
)
from transformers.cache_utils import Cache, QuantizedLayer
from transformers.generation.streamers import BaseStreamer

from tests.modeling.comparison import CLOSE, cache_of, gpt2_with_the_weights_of, random_ids

GREEDY = {"max_new_tokens": 12, "do_sample": False}


@pytest.fixture
def prompts() -> dict[str, torch.Tensor]:
    """Two prompts, the first one padded on the left with 0."""
    input_ids = torch.randint(1, 128, (2, 7))
    mask = torch.ones_like(input_ids)
    input_ids[0, :3], mask[0, :3] = 0, 0
    return {"input_ids": input_ids, "attention_mask": mask}


@pytest.fixture
def prompt() -> dict[str, torch.Tensor]:
    input_ids = torch.randint(1, 128, (1, 7))
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def generate(model, inputs: dict, **options) -> torch.LongTensor:
    torch.manual_seed(1)
    return model.generate(**inputs, **GREEDY | options)


# Options, against GPT-2


# Those that change what `forward` gets: rows are repeated, reordered or end early, or pass again without the prompt.
# The others only choose among logits, which is the library's own work.
OPTIONS = {
    "sampling": {"do_sample": True},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 3},
    "several beams": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5, "early_stopping": True},
    "sampled beams": {"num_beams": 3, "do_sample": True},
    "eos_token_id": {"eos_token_id": list(range(1, 64))},
    "guidance_scale": {"guidance_scale": 3.0},
    "max_length": {"max_length": 15, "max_new_tokens": None},
}


@pytest.fixture(scope="module")
def twins(tiny_model):
    model = tiny_model(pad_token_id=0)
    return model, gpt2_with_the_weights_of(model)


def test_greedy_tokens_are_gpt2s(twins, prompts):
    model, gpt2 = twins
    tokens = generate(model, prompts)
    assert tokens.shape == (2, 7 + 12)
    assert torch.equal(tokens, generate(gpt2, prompts))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_gives_gpt2s_tokens_and_the_same_without_a_cache(name, twins, prompts):
    (model, gpt2), options = twins, OPTIONS[name]
    tokens = generate(model, prompts, **options)
    assert not torch.equal(tokens, generate(model, prompts))  # the option does something
    assert torch.equal(tokens, generate(gpt2, prompts, **options))
    assert torch.equal(tokens, generate(model, prompts, use_cache=False, **options))


def test_stop_strings_end_a_text_where_gpt2s_ends(tiny_model, tokenizer):
    model = tiny_model(vocab_size=400, pad_token_id=1)
    prompt = tokenizer(["the old light"], return_tensors="pt")
    unstopped = generate(model, prompt)
    options = {"stop_strings": [tokenizer.decode(unstopped[0, 6:8])], "tokenizer": tokenizer}
    tokens = generate(model, prompt, **options)
    assert torch.equal(tokens, unstopped[:, :8])
    assert torch.equal(tokens, generate(gpt2_with_the_weights_of(model), prompt, **options))


# What is asked of it besides the tokens


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
def test_everything_recorded_on_the_way_equals_gpt2s(use_cache, tiny_model, prompts):
    model = tiny_model(pad_token_id=0)
    options = dict.fromkeys(
        ("return_dict_in_generate", "output_scores", "output_logits", "output_hidden_states", "output_attentions"), True
    )
    records = []
    for either in (model, gpt2_with_the_weights_of(model)):
        either.set_attn_implementation("eager")
        records.append(generate(either, prompts, use_cache=use_cache, **options))
    ours, theirs = records
    assert torch.equal(ours.sequences, theirs.sequences)
    for name in ("scores", "logits"):
        assert len(ours[name]) == 12
        torch.testing.assert_close(ours[name], theirs[name], **CLOSE)
    for step in range(12):
        for name, count in (("hidden_states", 3), ("attentions", 2)):
            assert len(ours[name][step]) == count
            for our_layer, their_layer in zip(ours[name][step], theirs[name][step], strict=True):
                assert our_layer.shape == their_layer.shape
                torch.testing.assert_close(our_layer[1], their_layer[1], **CLOSE)  # the row without padding
    if use_cache:
        assert cache_of(ours).get_seq_length() == 7 + 11
    else:
        assert cache_of(ours) is None


def test_a_streamer_sees_every_token_once_and_in_order(tiny_model, prompt):
    class Recorder(BaseStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    streamer = Recorder()
    tokens = generate(tiny_model(pad_token_id=0), prompt, streamer=streamer)
    assert streamer.tokens == tokens[0].tolist()
    assert streamer.ended


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}], ids=["dynamic cache", "static cache"])
def test_embeddings_as_a_prompt_generate_what_the_ids_generate(cache, tiny_model, prompts):
    model = tiny_model(pad_token_id=0)
    embedded = model.get_input_embeddings()(prompts["input_ids"])
    inputs = {"inputs_embeds": embedded, "attention_mask": prompts["attention_mask"]}
    expected = generate(model, prompts)
    assert torch.equal(generate(model, inputs, **cache), expected[:, 7:])
    assert torch.equal(generate(model, inputs | {"input_ids": prompts["input_ids"]}, **cache), expected)


def test_a_decoding_loop_of_ones_own_gets_model_and_inputs(tiny_model, prompts):
    def loop(model, input_ids, **kwargs):
        attention_mask = kwargs["attention_mask"]
        for _ in range(12):
            logits = model(input_ids, attention_mask=attention_mask, use_cache=False).logits[:, -1]
            input_ids = torch.cat([input_ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
            attention_mask = F.pad(attention_mask, (0, 1), value=1)
        return input_ids

    model = tiny_model(pad_token_id=0)
    assert torch.equal(generate(model, prompts, custom_generate=loop), generate(model, prompts))


# Caches and prefill


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


# Candidates from elsewhere, checked several at a time


def counted_calls(model) -> list[int]:
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_an_assistant_of_another_size_leaves_the_tokens_as_they_are(twins, tiny_model, prompt):
    model, gpt2 = twins
    assistant = tiny_model(pad_token_id=0, num_hidden_layers=1)
    tokens = generate(model, prompt, assistant_model=assistant)
    assert torch.equal(tokens, generate(model, prompt))
    options = {"do_sample": True, "temperature": 1.5}
    sampled = generate(model, prompt, assistant_model=assistant, **options)
    gpt2_assistant = gpt2_with_the_weights_of(assistant)
    assert torch.equal(sampled, generate(gpt2, prompt, assistant_model=gpt2_assistant, **options))
    assert not torch.equal(sampled, tokens)


def test_gpt2_and_this_model_can_assist_each_other(twins, prompt):
    model, gpt2 = twins
    expected = generate(model, prompt)
    assert torch.equal(generate(model, prompt, assistant_model=gpt2), expected)
    assert torch.equal(generate(gpt2, prompt, assistant_model=model), expected)


def test_a_good_assistant_saves_calls(tiny_model, prompt):
    model, assistant = tiny_model(pad_token_id=0), tiny_model(pad_token_id=0)
    expected = generate(model, prompt)
    calls = counted_calls(model)
    assert torch.equal(generate(model, prompt, assistant_model=assistant), expected)
    assert len(calls) < 12


def test_candidates_from_the_prompt_leave_the_tokens_as_they_are_and_save_calls(tiny_model, prompt):
    model = tiny_model(pad_token_id=0)
    text = generate(model, prompt)
    ids = torch.cat([text, text[:, :9]], dim=1)  # the model will say again what followed
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = generate(model, inputs)
    calls = counted_calls(model)
    assert torch.equal(generate(model, inputs, prompt_lookup_num_tokens=4), expected)
    assert len(calls) < 12


# Many requests at once


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "paged|eager"])
def test_continuous_batching_gives_each_request_its_tokens(implementation, tiny_model):
    model = tiny_model(pad_token_id=0)
    lengths = (3, 9, 5, 14)
    requests = [torch.randint(1, 128, (1, length)) for length in lengths]
    requests.append(torch.cat([requests[1], random_ids(1, 2)], dim=1))  # starts like another one
    expected = [
        generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0, ids.shape[1] :].tolist()
        for ids in requests
    ]
    model.set_attn_implementation(implementation)
    outputs = model.generate_batch(
        [ids[0].tolist() for ids in requests],
        generation_config=GenerationConfig(**GREEDY, eos_token_id=-1, pad_token_id=0),
        # Too small for all requests at once, so that they wait for each other; and no memory is measured.
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=16, block_size=4, max_batch_tokens=16),
        warmup=False,
        progress_bar=False,
    )
    assert [output.error for output in outputs.values()] == [None] * 5
    assert [output.generated_tokens for output in outputs.values()] == expected


# As many positions as there are


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the library logs."""
    messages, handler = [], logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("transformers").addHandler(handler)
    yield messages
    logging.getLogger("transformers").removeHandler(handler)


def test_a_number_of_new_tokens_replaces_the_models_length_without_a_warning(tiny_model, said):
    model = tiny_model(pad_token_id=0)
    model.generation_config.max_length = 64
    inputs = {"inputs": random_ids(1, 10), "attention_mask": torch.ones(1, 10, dtype=torch.long), "do_sample": False}
    assert model.generate(**inputs, max_new_tokens=4).shape == (1, 14)
    assert model.generate(**inputs).shape == (1, 64)
    assert not said
    assert model.generate(**inputs, max_new_tokens=4, max_length=20).shape == (1, 14)
    assert "Both `max_new_tokens`" in said[0]  # who passes both is told


def test_generation_fills_every_position(tiny_model):
    model = tiny_model(pad_token_id=0)
    assert model.generate(random_ids(1, 10), max_length=64, do_sample=False).shape == (1, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "65 positions, but max_position_embeddings is 64: .*generate fewer tokens"),
        ({"cache_implementation": "static"}, "The cache holds up to .* make the cache shorter"),
    ],
    ids=["dynamic cache", "static cache"],
)
def test_generating_beyond_the_last_position_is_refused(options, message, tiny_model):
    model = tiny_model(pad_token_id=0)
    with pytest.raises(ValueError, match=message):
        model.generate(random_ids(1, 10), max_new_tokens=60, do_sample=False, **options)


def test_a_model_that_refused_to_generate_too_much_still_generates_less(tiny_model):
    model = tiny_model(pad_token_id=0)
    input_ids = random_ids(1, 10)
    with pytest.raises(ValueError, match="max_position_embeddings is 64"):
        model.generate(input_ids, max_new_tokens=60, do_sample=False)
    assert model.generate(input_ids, max_new_tokens=4, do_sample=False).shape == (1, 14)
