"""`generate`: GPT-2's tokens under every option, what is recorded on the way, and as many positions as there are."""

import logging
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from transformers.generation.streamers import BaseStreamer

from tests.modeling.comparison import CLOSE, cache_of, generate, gpt2_with_the_weights_of, random_ids

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
