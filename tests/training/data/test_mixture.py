"""Several corpora in one recipe: each in every part, counted for itself, and visited by its weight."""

import json
import random
from dataclasses import replace

import pytest

from configuration.data import DataConfig
from tests.training.data.test_preparation import contents, small  # noqa: F401
from training.data import mixture, tokenization
from training.data.corpus import Corpus, Document
from training.data.mixture import corpus_windows, describe_shares, open_corpora
from training.data.preparation import prepare_shards
from training.data.shards import TokenShards, data_record
from training.data.sources import open_corpus
from training.data.text_preparation import prepare_text
from training.data.work_folder import WorkFolder
from training.errors import InputError

WORDS = {"sea": ["ship", "sail", "wave"], "land": ["tree", "stone", "road"], "sky": ["cloud", "bird", "star"]}
PARTS = ("train", "validation", "test")


@pytest.fixture
def corpora(tmp_path) -> list[str]:
    """A folder of 120 documents, one long document, and a .jsonl of 120 whose text is in the field `body`."""
    chance = random.Random(0)
    sea, land, sky = ([" ".join(chance.choices(words, k=40)) for _ in range(120)] for words in WORDS.values())
    (tmp_path / "sea").mkdir()
    for number, text in enumerate(sea):
        (tmp_path / "sea" / f"{number:03}.txt").write_text(text)
    (tmp_path / "land.txt").write_text(" ".join(land))
    (tmp_path / "sky.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in sky))
    return [str(tmp_path / name) for name in ("sea", "land.txt", "sky.jsonl")]


@pytest.fixture
def mixed(corpora, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")

    def build(**fields) -> DataConfig:
        places = {"tokenizer": str(tmp_path / "tokenizer"), "data_dir": str(tmp_path / "data")}
        return DataConfig(**{"corpus": corpora, "text_field": "body", "tokenize_threads": 1, **places, **fields})

    return build


def prepare(config: DataConfig, **options) -> TokenShards:
    return prepare_shards(config, 400, 8, options.pop("say", lambda line: None), **options)


def test_every_corpus_is_in_every_part_in_order_and_counted(mixed):
    lines = []
    prepared = prepare(mixed(), say=lines.append)
    described = prepared.manifest["corpus"]
    assert [corpus["corpus"] for corpus in described["corpora"]] == ["sea", "land", "sky"]
    assert [corpus["documents"] for corpus in described["corpora"]] == [120, 1, 120]
    assert described["documents"] == 241
    assert [line.split()[-1] for line in lines[:3]] == ["hash", "contiguous", "hash"]
    for part in PARTS:
        counts = prepared.manifest["parts"][part]
        ids, start = prepared.tokens(part)[:], 0
        for words, corpus in zip(WORDS.values(), counts["corpora"], strict=True):
            own = prepared.tokenizer.decode(ids[start : start + corpus["tokens"]])
            assert set(own.replace("<|endoftext|>", " ").split()) == set(words)
            # The long document, which is cut between the parts, does not run into what comes after it.
            assert own.endswith("<|endoftext|>")
            start += corpus["tokens"]
        assert start == counts["tokens"] == len(ids)
        for name in ("utf8_bytes", "documents"):
            assert sum(corpus[name] for corpus in counts["corpora"]) == counts[name]


def test_a_list_of_one_is_that_corpus(mixed, corpora):
    alone = prepare(mixed(corpus=corpora[0])).folder
    assert prepare(mixed(corpus=corpora[:1])).folder == alone
    assert "corpora" not in (alone / "manifest.json").read_text()


def test_the_data_are_found_again_where_a_text_is_gone_and_by_name(mixed, corpora, tmp_path):
    prepared = prepare(mixed())
    assert prepare(mixed(corpus=corpora[::-1])).folder != prepared.folder
    (tmp_path / "land.txt").rename(tmp_path / "elsewhere")
    lines = []
    again = prepare(mixed(corpus_weights=[1.0, 2.0, 3.0]), say=lines.append)
    assert again.folder == prepared.folder
    assert "land.txt does not exist: going on with" in lines[0]
    named = prepare(DataConfig(corpus=str(prepared.folder), corpus_weights=[1.0, 2.0, 3.0]))
    assert named.folder == prepared.folder
    assert len(corpus_windows(named, [1.0, 2.0, 3.0], 8)) == 3


def test_text_that_another_corpus_has_too_is_kept_once(mixed, corpora, tmp_path):
    (tmp_path / "more").mkdir()
    for number in range(120):
        (tmp_path / "more" / f"{number}.txt").write_text(f"number {number}")
    (tmp_path / "more" / "same.txt").write_text((tmp_path / "sea" / "000.txt").read_text())
    manifest = prepare(mixed(corpus=[corpora[0], str(tmp_path / "more")], deduplicate=True)).manifest
    assert manifest["corpus"]["duplicates_left_out"] == 1
    assert [corpus["documents"] for corpus in manifest["corpus"]["corpora"]] == [120, 120]
    (tmp_path / "copy.txt").write_text((tmp_path / "land.txt").read_text())
    with pytest.raises(InputError, match="corpus copy is empty: it holds no text that has not come before"):
        prepare(mixed(corpus=[corpora[1], str(tmp_path / "copy.txt")], deduplicate=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corpus": ["{sea}", "{data}"]}, "holds prepared data, which cannot be mixed any more"),
        ({"corpus": ["{sea}", "{tokens}"]}, "holds token files, which cannot be mixed any more"),
        ({"corpus": ["{sea}", "{sea}/"]}, "twice: give it a larger weight"),
        ({"corpus": ["{sea}", "/absent"]}, "corpus /absent does not exist"),
        ({"corpus": ["{sea}", "{few}"], "split": "hash"}, "corpus few: split is hash, which needs 3 different"),
        ({"corpus": ["{sea}", "{tiny}"]}, "part has no text of corpus tiny: use more text of it"),
        ({"corpus": "{sea}", "corpus_weights": [1.0, 2.0]}, "has 2 numbers, but corpus is one text"),
    ],
)
def test_what_cannot_be_mixed_is_refused(fields, message, mixed, corpora, tmp_path):
    (tmp_path / "few.txt").write_text("words and words " * 50)
    (tmp_path / "tiny.txt").write_text("word")
    (tmp_path / "tokens").mkdir()
    for name in ("train", "validation"):
        (tmp_path / "tokens" / f"{name}.safetensors").touch()
    places = {"sea": corpora[0], "tokens": tmp_path / "tokens"}
    places |= {name: tmp_path / f"{name}.txt" for name in ("few", "tiny")}
    if "{data}" in fields["corpus"]:
        places["data"] = prepare(mixed(corpus=corpora[1])).folder
    before = sorted(tmp_path.rglob("data/*"))
    corpus = fields["corpus"]
    filled = corpus.format(**places) if isinstance(corpus, str) else [name.format(**places) for name in corpus]
    with pytest.raises(InputError, match=message):
        prepare(mixed(**{**fields, "corpus": filled}))
    assert sorted(tmp_path.rglob("data/*")) == before


def test_windows_belong_to_the_corpus_in_which_they_begin(mixed):
    prepared = prepare(mixed())
    tokens = [corpus["tokens"] for corpus in prepared.manifest["parts"]["train"]["corpora"]]
    shares = corpus_windows(prepared, [6.0, 3.0, 1.0], 8)
    assert [share.share for share in shares] == [0.6, 0.3, 0.1]
    assert (shares[0].first, shares[-1].end) == (0, (sum(tokens) - 1) // 8)
    for number, share in enumerate(shares):
        begin = sum(tokens[:number])
        assert begin <= share.first * 8 < begin + 8
        if number:
            assert share.first == shares[number - 1].end
    natural = corpus_windows(prepared, None, 8)
    assert [share.share for share in natural] == pytest.approx([count / sum(tokens) for count in tokens], abs=0.01)
    with pytest.raises(InputError, match=r"has 2 numbers, but the data in .* was made of 3: sea, land, sky"):
        corpus_windows(prepared, [1.0, 2.0], 8)
    long = tokens[0] + tokens[1]
    with pytest.raises(InputError, match=f"corpus land has less than one window of {long} tokens to train on"):
        corpus_windows(prepared, [1.0, 1.0, 1.0], long)


def test_a_line_says_how_often_each_corpus_is_visited(mixed):
    shares = corpus_windows(prepare(mixed()), [0.8, 0.1, 0.1], 8)
    windows = shares[0].end
    lines = describe_shares(shares, round(windows * 5 / 0.8))
    assert lines[0].startswith(f"corpus sea: {shares[0].tokens:,} tokens to train on, visited 5.00 times; 80.0% of")
    assert lines[0].endswith("(text teaches little more after 4 times: give it less weight, or more text)")
    assert "teaches" not in lines[1]


class Streamed(Corpus):
    """A corpus that is not read beforehand, and has a state to go on from, as a dataset on the Hub."""

    def __init__(self, word: str):
        self.name, self.description, self.identity = word, {"corpus": word, "revision": "a" * 40}, f"stream of {word}"

    def signature(self):
        return self.identity

    def documents(self, skip=0, state=None):
        self._at = state["at"] if state else skip
        assert self._at == skip
        while self._at < 300:
            self._at += 1
            yield Document.of(f"{self.name} {self._at} " * 5, self.name)

    def state(self):
        return {"at": self._at}


def test_streams_in_a_mixture_go_on_from_their_own_states(mixed, corpora, small, tmp_path, monkeypatch):  # noqa: F811
    tokenizer = prepare(mixed(corpus=corpora[0])).tokenizer

    def prepared_in(name):
        config = mixed(data_dir=str(tmp_path / name), deduplicate=True)
        sources = [Streamed("first"), open_corpus(replace(config, corpus=corpora[2])), Streamed("second")]
        return prepare_text(config, sources, tokenizer, 400, 8, lambda line: None)

    whole = prepared_in("whole")
    record = data_record(whole)["corpus"]
    assert [corpus["documents"] for corpus in record["corpora"]] == [300, 120, 300]
    assert record["characters"] == sum(corpus["characters"] for corpus in record["corpora"])
    save_state, states = WorkFolder.save_state, []

    def crash(self, state):
        save_state(self, state)
        states.append(state)
        raise KeyboardInterrupt

    monkeypatch.setattr(WorkFolder, "save_state", crash)
    monkeypatch.setattr(tokenization, "BATCH_CHARACTERS", 4000)
    for _ in range(200):
        try:
            folder = prepared_in("cut")
            break
        except KeyboardInterrupt:
            # Every attempt gets a state further.
            attempts = len(states)
            monkeypatch.setattr(
                WorkFolder, "save_state", lambda self, state: crash(self, state) if state not in states else None
            )
    assert attempts > 10
    assert {len(state["position"]["earlier"]) for state in states} == {0, 1, 2}
    assert contents(folder) == contents(whole)


def test_a_run_that_has_begun_keeps_to_each_datasets_commit(monkeypatch):
    opened = []
    monkeypatch.setattr(mixture, "open_corpus", opened.append)
    config = DataConfig(corpus=["hf:a/b", "texts", "hf:c/d"])
    commits = [{"corpus": "a/b", "revision": "1" * 40}, {"corpus": "texts"}, {"corpus": "c/d", "revision": "2" * 40}]
    open_corpora(config, {"corpus": "b+texts+d", "corpora": commits})
    assert [each.dataset_revision for each in opened] == ["1" * 40, None, "2" * 40]
    assert [each.corpus for each in opened] == config.corpus
