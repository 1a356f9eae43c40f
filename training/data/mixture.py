"""
Several corpora in one recipe: opened, parted each for itself, and read one after the other as one stream of text.

In each part the tokens of a corpus lie together, and the manifest says how many they are, so a run can draw its windows
from each of them by weight (`windows`).
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from configuration.data import DataConfig

from ..errors import InputError
from ..files import sha256_of_values
from .corpus import Corpus
from .duplicates import SeenDocuments
from .shards import TokenShards, data_record
from .sources import open_corpus
from .split import SPLITS, Position, Split, Stretch, Survey, plan_split, split_documents, survey
from .token_files import find_token_files
from .windows import WindowShare

LONGEST_NAME = 60
# Up to about 4 passes, repeated text is worth nearly as much as new text (Muennighoff et al., 2023, "Scaling
# Data-Constrained Language Models", section 5).
PASSES_WORTH_IT = 4


@dataclass(frozen=True)
class PartedCorpus:
    """A corpus and how it is parted; `found` is `None` for one that is not read beforehand."""

    corpus: Corpus
    found: Survey | None
    split: Split

    @property
    def contents(self) -> str:
        """Names what is in it."""
        return self.found.sha256 if self.found else self.corpus.identity

    @property
    def sha256(self) -> str:
        return self.found.sha256 if self.found else hashlib.sha256(self.corpus.identity.encode()).hexdigest()


def open_corpora(config: DataConfig, begun_on: dict[str, Any] | None) -> list[Corpus]:
    """What `corpus` names.

    Args:
        begun_on: what the data that the run has begun on says of its corpus: its commits of datasets count.

    Raises:
        UnavailableError: one of them is missing.
        InputError: one of them is of an unknown kind, or of several one holds tokens already.
    """
    names, weights = config.corpora, config.corpus_weights
    if weights is not None and len(weights) != len(names):
        raise InputError(f"corpus_weights has {len(weights)} numbers, but corpus is one text, {names[0]}")
    for name in names if len(names) > 1 else ():
        if [os.path.normpath(each) for each in names].count(os.path.normpath(name)) > 1:
            raise InputError(f"corpus names {name} twice: give it a larger weight (corpus_weights)")
        made = "prepared data" if data_record(Path(name)) else "token files" if find_token_files(name) else None
        if made:
            raise InputError(
                f"corpus names several, but {name} holds {made}, which cannot be mixed any more: name the text that "
                "it was made of, or that folder alone"
            )
    then = begun_on.get("corpora", [begun_on]) if begun_on else []
    opened = []
    for name, described in zip_longest(names, then[: len(names)], fillvalue={}):
        revision = described.get("revision", config.dataset_revision)
        opened.append(open_corpus(replace(config, corpus=name, corpus_weights=None, dataset_revision=revision)))
    return opened


def name_of(corpora: list[Corpus]) -> str:
    """A short name for all of them."""
    whole = "+".join(corpus.name for corpus in corpora)
    return whole if len(whole) <= LONGEST_NAME else f"{corpora[0].name[: LONGEST_NAME // 2]}+{len(corpora) - 1}"


def part_corpora(corpora: list[Corpus], config: DataConfig) -> list[PartedCorpus]:
    """Reads those whose contents are not known otherwise, and plans each one's split, so that it is in every part.

    Raises:
        InputError: one of them cannot be read or split.
    """
    seen = SeenDocuments() if config.deduplicate else None
    parted = []
    for corpus in corpora:
        found = survey(corpus, seen) if corpus.identity is None else None
        try:
            split = plan_split(config.split, config.split_fractions, found)
        except InputError as error:
            raise InputError(f"corpus {corpus.name}: {error}" if len(corpora) > 1 else str(error)) from None
        parted.append(PartedCorpus(corpus, found, split))
    return parted


def split_corpora(
    parted: list[PartedCorpus], seen: SeenDocuments | None = None, start: Position | None = None
) -> Iterator[tuple[list[Stretch], Position]]:
    """All corpora as one stream of text by part, as `split_documents` gives each of them."""
    position = start or Position()
    while position.corpus < len(parted):
        each, reached = parted[position.corpus], position
        for stretches, reached in split_documents(each.corpus, each.split, seen, position):
            yield stretches, reached
        done = [*reached.earlier, [reached.documents, reached.characters]]
        position = Position(different=reached.different, earlier=done)


def check_every_corpus(names: list[str], parts: dict[str, Any]) -> None:
    """Raises InputError where a part has no text of one of several corpora."""
    for part in SPLITS:
        for name, counts in zip(names, parts[part].get("corpora", ()), strict=False):
            if counts["utf8_bytes"] == 0:
                raise InputError(
                    f"the {part} part has no text of corpus {name}: use more text of it, or other split_fractions"
                )


def describe_split(parted: list[PartedCorpus]) -> dict[str, Any]:
    """What the manifest says of the split."""
    splits = [asdict(each.split) for each in parted]
    if len(splits) == 1:
        return splits[0]
    common = {
        name: splits[0][name] if all(split[name] == splits[0][name] for split in splits) else other
        for name, other in (("kind", "auto"), ("fractions", None))
    }
    return {**common, "corpora": splits}


def describe_corpora(parted: list[PartedCorpus], parts: dict[str, Any], end: Position) -> dict[str, Any]:
    """What the manifest says of the text, and of each of several corpora.

    Args:
        parts: with what was counted in them.
        end: of the whole stream.
    """
    lengths = [*end.earlier, [end.documents, end.characters]]
    surveyed = all(each.found for each in parted)
    described = []
    for number, each in enumerate(parted):
        if surveyed:
            totals = {name: getattr(each.found, name) for name in ("documents", "characters", "utf8_bytes")}
        else:
            counts = [part.get("corpora", [part])[number] for part in parts.values()]
            totals = {
                "documents": sum(count["documents"] for count in counts),
                "characters": lengths[number][1],
                "utf8_bytes": sum(count["utf8_bytes"] for count in counts),
            }
        described.append({**each.corpus.description, "sha256": each.sha256, **totals})
    if len(described) == 1:
        return described[0]
    totals = {name: sum(each[name] for each in described) for name in ("documents", "characters", "utf8_bytes")}
    name, hashes = name_of([each.corpus for each in parted]), [each["sha256"] for each in described]
    return {"corpus": name, "corpora": described, "sha256": sha256_of_values(hashes), **totals}


def corpus_windows(prepared: TokenShards, weights: list[float] | None, length: int) -> list[WindowShare]:
    """The training windows of each corpus that the data was made of; none where it was made of one.

    A window is of the corpus in which it begins.

    Args:
        weights: `corpus_weights`.
        length: of a window, in tokens.

    Raises:
        InputError: there are not as many weights as corpora, or one of these has no window.
    """
    described, part = prepared.manifest["corpus"], prepared.manifest["parts"]["train"]
    names = [corpus["corpus"] for corpus in described.get("corpora", [described])]
    if weights is not None and len(weights) != len(names):
        raise InputError(
            f"corpus_weights has {len(weights)} numbers, but the data in {prepared.folder} was made of {len(names)}: "
            f"{', '.join(names)}"
        )
    if len(names) == 1:
        return []
    windows = (part["tokens"] - 1) // length
    tokens = [counts["tokens"] for counts in part["corpora"]]
    begins = [min(windows, -(-sum(tokens[:number]) // length)) for number in range(len(tokens))]
    places = list(zip(begins, [*begins[1:], windows], strict=True))
    shares = [weight / sum(weights) for weight in weights] if weights else [(b - a) / windows for a, b in places]
    for name, (first, end) in zip(names, places, strict=True) if weights else ():
        if first == end:
            raise InputError(
                f"corpus {name} has less than one window of {length} tokens to train on: use more text of it, a "
                "smaller max_position_embeddings, or no corpus_weights"
            )
    return [WindowShare(*each) for each in zip(names, tokens, *zip(*places, strict=True), shares, strict=True)]


def describe_shares(shares: list[WindowShare], visited: int) -> list[str]:
    """A line for each corpus: what there is of it, and what a run takes.

    Args:
        visited: windows that the run visits.
    """
    lines = []
    for share in shares:
        passes = visited * share.share / max(1, share.end - share.first)
        line = (
            f"corpus {share.name}: {share.tokens:,} tokens to train on, visited {passes:.2f} times; "
            f"{share.share:.1%} of the run's windows"
        )
        if passes > PASSES_WORTH_IT:
            line += f" (text teaches little more after {PASSES_WORTH_IT} times: give it less weight, or more text)"
        lines.append(line)
    return lines
