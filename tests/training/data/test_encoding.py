"""Encoding in several threads: in order, with little read ahead, and over at once when nobody wants the rest."""

import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from itertools import count, islice
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from modeling_gpt_scratch.conversion.characters import character_tokenizer
from training.data.encoding import BatchEncoder, encode_in_order, keeps_all_text, unknown_token, usable_cores
from training.data.tokenizer import encoder

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_batches_come_in_order_whichever_is_done_first(threads):
    def encode(number):
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    found = list(encode_in_order(encode, ((number, f"tag {number}") for number in range(20)), threads))
    assert found == [(number * number, f"tag {number}") for number in range(20)]


def test_threads_that_share_a_tokenizer_give_what_one_gives(tokenizer):
    encode = BatchEncoder(encoder(tokenizer), "uint16", 0)
    texts = [f"Ship {number} of seven came home; the lamp was lit. " * 50 for number in range(40)]
    batches = [[("train", text, True), ("test", text[:number], False)] for number, text in enumerate(texts, start=1)]
    found = encode_in_order(encode, ((batch, None) for batch in batches), threads=4)
    for (encoded, _), batch in zip(found, batches, strict=True):
        for part, alone in encode(batch).items():
            assert encoded[part].ids.tolist() == alone.ids.tolist()
            assert (encoded[part].utf8_bytes, encoded[part].documents) == (alone.utf8_bytes, alone.documents)


def test_special_tokens_in_text_are_text_in_every_thread(tokenizer):
    encode = BatchEncoder(encoder(tokenizer), "uint16", 0)
    ((encoded, _),) = encode_in_order(encode, [([("train", "<|endoftext|>", True)], None)], threads=2)
    assert encoded["train"].ids.tolist().count(0) == 1
    assert encoded["train"].ids[-1] == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_few_batches_are_read_ahead(threads):
    read = []

    def batches():
        for number in count():
            read.append(number)
            yield number, None

    with closing(encode_in_order(str, batches(), threads)) as encoded:
        for done, _ in islice(encoded, 50):
            assert len(read) - int(done) <= 2 * threads + 1
    assert len(read) == 50 + 2 * threads


def test_a_batch_that_fails_is_reported_in_its_place_and_ends_the_rest():
    begun = []

    def encode(number):
        begun.append(number)
        time.sleep(0.01)
        return 6 // (3 - number)

    found = []
    with pytest.raises(ZeroDivisionError):
        found.extend(pair[0] for pair in encode_in_order(encode, ((number, None) for number in range(99)), 2))
    assert found == [2, 3, 6]
    assert max(begun) <= 3 + 5


def test_an_end_before_the_end_cancels_what_has_not_begun(monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    others, begun, is_begun, may_end = threading.active_count(), [], threading.Event(), threading.Event()

    def encode(number):
        begun.append(number)
        if number:
            is_begun.set()
            may_end.wait(20)

    found = encode_in_order(encode, ((number, None) for number in range(99)), threads=1)
    next(found)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert is_begun.wait(20)
    threading.Timer(0.1, may_end.set).start()
    found.close()
    assert begun == [0, 1]
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    assert threading.active_count() == others


THREADS = """
import os
from tokenizers import Tokenizer, models, pre_tokenizers
from training.data.encoding import BatchEncoder, encode_in_order

core = Tokenizer(models.BPE())
core.pre_tokenizer = pre_tokenizers.ByteLevel()
encode = BatchEncoder(core, "uint16", 0)
batch = [("train", "the lamp was lit", True)] * 100


def threads():
    return len(os.listdir("/proc/self/task"))


before = threads()
print(max(threads() for _ in encode_in_order(encode, [(batch, None)] * 9, 2)) - before)
encode(batch)
print(threads() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_the_tokenizers_library_adds_no_threads_of_its_own():
    variables = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    words = [sys.executable, "-c", THREADS]
    run = subprocess.run(words, env=variables, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    ours, its_own = map(int, run.stdout.split())
    assert 1 <= ours <= 2
    assert its_own > 0  # where nothing keeps it from them


def test_cores_are_counted_where_the_system_does_not_say_which_are_ours(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()


def letters(pre_tokenizer, decoder=None, normalizer=None) -> Tokenizer:
    """A tokenizer of three words and whatever else is unknown."""
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "lamp": 2, "▁the": 3, "▁lamp": 4}, unk_token="[UNK]"))
    core.pre_tokenizer, core.encode_special_tokens = pre_tokenizer, True
    if decoder is not None:
        core.decoder = decoder
    if normalizer is not None:
        core.normalizer = normalizer
    return core


METASPACE = (pre_tokenizers.Metaspace(), decoders.Metaspace())


@pytest.mark.parametrize(
    ("core", "text", "losses"),
    [
        (letters(*METASPACE), "the lamp", (0, 0)),
        (letters(*METASPACE), " lamp the", (0, 0)),  # the first space is the tokenizer's own way
        (letters(*METASPACE), "the é lamp é", (2, 14)),
        (letters(*METASPACE, normalizers.Lowercase()), "the LAMP", (0, 8)),
        (letters(pre_tokenizers.Whitespace()), "the  lamp\n", (0, 10)),
        (character_tokenizer("the lamp\n", special_tokens=True).backend_tokenizer, "the\n lamp", (0, 0)),
        (character_tokenizer("the lamp\n", special_tokens=True).backend_tokenizer, "the LAMP", (4, 8)),
    ],
    ids=["kept", "first space", "unknown", "lowercased", "spaces", "characters", "unknown characters"],
)
def test_what_a_tokenizer_loses_is_counted(core, text, losses):
    assert not keeps_all_text(core)
    found = BatchEncoder(core, "uint16", 9)([("train", text, True), ("test", "the", True), ("train", text, False)])
    assert (found["train"].unknown_tokens, found["train"].changed_bytes) == tuple(2 * loss for loss in losses)
    assert (found["train"].utf8_bytes, found["train"].documents) == (2 * len(text.encode()), 1)
    assert (found["test"].unknown_tokens, found["test"].changed_bytes) == (0, 0)


def test_the_token_for_unknown_text_is_found_in_every_model():
    pieces = [("<pad>", 0.0), ("<unk>", 0.0), ("a", -1.0)]
    assert unknown_token(Tokenizer(models.Unigram(pieces, unk_id=1))) == "<unk>"
    assert unknown_token(letters(*METASPACE)) == "[UNK]"
    assert unknown_token(Tokenizer(models.BPE())) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda core: setattr(core, "normalizer", normalizers.NFKC()),
        lambda core: setattr(core, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda core: setattr(
            core,
            "pre_tokenizer",
            pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(False)]),
        ),
        lambda core: setattr(core, "decoder", decoders.Fuse()),
        lambda core: core.add_tokens([AddedToken("lamp", rstrip=True)]),
    ],
    ids=["normalizer", "prefix space", "removed", "decoder", "stripping token"],
)
def test_bytes_keep_every_text_unless_something_comes_before_or_after(change, tokenizer):
    core = encoder(tokenizer)
    assert keeps_all_text(core)
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    assert keeps_all_text(core)
    change(core)
    assert not keeps_all_text(core)


def test_bytes_that_have_no_token_are_lost():
    core = Tokenizer(models.BPE({"a": 0}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    assert not keeps_all_text(core)
    assert BatchEncoder(core, "uint16", 0)([("train", "ab", False)])["train"].changed_bytes == 2
