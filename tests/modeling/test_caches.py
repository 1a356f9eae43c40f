"""Caches: decoding in any steps equals one forward pass, whichever cache holds the past."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from tests.modeling.comparison import CLOSE, cache_of, random_ids


@pytest.mark.parametrize("chunks", [[12], [5, 1, 6], [1] * 12], ids=["at once", "chunked prefill", "one by one"])
@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_cached_decoding_equals_full_forward(kind, chunks, tiny_model):
    model = tiny_model()
    input_ids = random_ids(2, 12)
    cache = kind(config=model.config, **{"max_cache_len": 20} if kind is StaticCache else {})
    logits = [model(part, past_key_values=cache).logits for part in input_ids.split(chunks, dim=1)]
    assert int(cache.get_seq_length()) == 12
    torch.testing.assert_close(torch.cat(logits, dim=1), model(input_ids, use_cache=False).logits, **CLOSE)


def test_a_cache_is_returned_by_default_and_can_be_declined(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 6)
    cache = cache_of(model(input_ids))
    assert cache.get_seq_length() == 6
    assert cache_of(model(input_ids, use_cache=False)) is None
    assert cache_of(model(input_ids[:, :1], past_key_values=DynamicCache(), use_cache=False)) is None
    next_logits = model(input_ids[:, :1], past_key_values=cache).logits
    expected = model(torch.cat([input_ids, input_ids[:, :1]], dim=1)).logits[:, -1:]
    torch.testing.assert_close(next_logits, expected, **CLOSE)


def test_a_name_of_the_cache_without_one_does_not_hide_the_other(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 8)
    expected = model(input_ids).logits[:, 5:]
    for here, nowhere in (("past_key_values", "cache"), ("cache", "past_key_values")):
        cache = DynamicCache()
        model(input_ids[:, :5], **{here: cache})
        logits = model(input_ids[:, 5:], **{here: cache, nowhere: None}).logits
        torch.testing.assert_close(logits, expected, **CLOSE)
        assert cache.get_seq_length() == 8


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
@pytest.mark.parametrize("legacy", [(), []], ids=["tuple", "list"])
def test_what_older_releases_had_in_place_of_a_cache_is_refused(name, legacy, tiny_model):
    with pytest.raises(ValueError, match="must be a transformers Cache"):
        tiny_model()(random_ids(1, 4), **{name: legacy})


def test_a_cache_made_without_a_configuration_works_too(tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 9)
    cache = DynamicCache()
    logits = [model(part, past_key_values=cache).logits for part in input_ids.split([5, 4], dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(input_ids).logits, **CLOSE)


@pytest.mark.parametrize("padding", [0, 3], ids=["no padding", "left padding"])
def test_a_static_cache_may_get_a_mask_as_long_as_itself(padding, tiny_model):
    """Such a mask has the same shape at every step, so a compiled step is never compiled again."""
    model, input_ids = tiny_model(), random_ids(2, 9)
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[0, :padding] = 0
    cache = StaticCache(config=model.config, max_cache_len=16)
    parts = input_ids.split([5, 1, 3], dim=1)
    logits = [model(part, attention_mask=mask, past_key_values=cache).logits for part in parts]
    expected = model(input_ids, attention_mask=mask[:, :9]).logits
    seen = mask[:, :9].bool()
    torch.testing.assert_close(torch.cat(logits, dim=1)[seen], expected[seen], **CLOSE)


def test_a_mask_that_leaves_out_the_past_is_refused(tiny_model):
    model, cache = tiny_model(), DynamicCache()
    model(random_ids(2, 5), past_key_values=cache)
    with pytest.raises(ValueError, match="attention_mask has 1 columns, but there are 5 past and 1 new tokens"):
        model(random_ids(2, 1), attention_mask=torch.ones(2, 1), past_key_values=cache)


def test_a_cropped_cache_continues_as_if_the_rest_had_never_been(tiny_model):
    model, input_ids, others = tiny_model(), random_ids(2, 9), random_ids(2, 4)
    cache = DynamicCache(config=model.config)
    model(input_ids, past_key_values=cache)
    cache.crop(-3)
    logits = model(others, past_key_values=cache).logits
    expected = model(torch.cat([input_ids[:, :6], others], dim=1)).logits[:, 6:]
    torch.testing.assert_close(logits, expected, **CLOSE)


def test_a_static_cache_that_was_reset_is_as_good_as_new(tiny_model):
    model, input_ids = tiny_model(), random_ids(2, 9)
    cache = StaticCache(config=model.config, max_cache_len=16)
    model(random_ids(2, 12), past_key_values=cache)
    cache.reset()
    torch.testing.assert_close(model(input_ids, past_key_values=cache).logits, model(input_ids).logits, **CLOSE)


def test_a_cache_repeated_and_selected_by_rows_follows_its_rows(tiny_model):
    model, input_ids, others = tiny_model(), random_ids(2, 7), random_ids(3, 2)
    cache = DynamicCache(config=model.config)
    model(input_ids, past_key_values=cache)
    cache.batch_repeat_interleave(2)  # rows 0 0 1 1
    cache.batch_select_indices(torch.tensor([3, 0, 2]))  # rows 1 0 1
    logits = model(others, past_key_values=cache).logits
    expected = model(torch.cat([input_ids[[1, 0, 1]], others], dim=1)).logits[:, 7:]
    torch.testing.assert_close(logits, expected, **CLOSE)
