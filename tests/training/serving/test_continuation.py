"""A text that grows by tokens is said as far as it is certain."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from training.serving.continuation import Continuation


@pytest.fixture
def follow():
    """Gives tokens to a continuation one by one, and returns what it says after each, and at the end."""

    def follow(tokenizer, prompt: str, text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], Continuation]:
        ids, said = tokenizer(prompt)["input_ids"], []
        continuation = Continuation(tokenizer, ids, {0}, stops, said.append, unwanted=lambda: False)
        for end in range(len(ids) + 1, len(ids) + 1 + len(new := tokenizer(text)["input_ids"])):
            if continuation(torch.tensor([(ids + new)[:end]]), None).all():
                break
        return [*said, continuation.finish()], continuation

    return follow


def test_half_a_character_is_not_said(follow, tokenizer):
    assert len(tokenizer("é")["input_ids"]) == 2
    said, _ = follow(tokenizer, "A light", "éa🙂")
    assert said == ["é", "a", "🙂", ""]


def test_what_never_becomes_a_character_is_said_at_the_end(follow, tokenizer):
    ids = tokenizer("é")["input_ids"][:1]
    continuation = Continuation(tokenizer, [5], {0}, (), pytest.fail, unwanted=lambda: False)
    continuation(torch.tensor([[5, *ids]]), None)
    assert continuation.finish() == "\ufffd"


def test_what_may_become_a_stop_text_waits(follow, tokenizer):
    said, continuation = follow(tokenizer, "0", "xyzxyq", stops=("xyq", "zz"))
    assert said == ["xy", "z", ""]
    assert continuation.ended
    said, continuation = follow(tokenizer, "0", "xyzx", stops=("xyq",))
    assert (said[-1], "".join(said), continuation.ended) == ("x", "xyzx", False)


def test_a_token_that_ends_a_text_is_no_part_of_it_even_if_it_is_not_special(follow, tokenizer):
    continuation = Continuation(tokenizer, [5], {9}, (), lambda text: None, unwanted=lambda: False)
    assert continuation(torch.tensor([[5, 8, 9]]), None).all()
    assert continuation.text == tokenizer.decode([8])
    assert len(continuation.tokens) == 2


def test_words_keep_their_spaces_with_a_tokenizer_that_drops_the_first(follow):
    vocabulary = {word: number for number, word in enumerate(("</s>", "▁the", "▁old", "▁light", "s"))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    said, _ = follow(tokenizer, "the", "old light")
    assert said == [" old", " light", ""]
