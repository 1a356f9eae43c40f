"""
Token shards: a corpus as memory-mapped vectors of token ids, with a manifest that says what they are.

    data/<corpus>-<hash>/
      manifest.json                 totals, tokenizer, split, overlap of the parts, size and sha256 of each shard
      made_from.json                which recipes led here (`made_from`)
      tokenizer/                    the tokenizer that made the ids
      train-00000.safetensors ...   one vector `tokens` each, likewise validation-* and test-*

Each part begins with the end-of-text token, and each document is followed by it: every token of text is predicted, and
so is every end. The folder has its final name only when it is complete. `preparation` makes such folders.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from tqdm import tqdm

from ..errors import InputError
from ..files import sha256_of, sha256_of_values
from .encoding import unknown_token
from .split import SPLITS
from .tokenizer import load_tokenizer, tokenizer_sha256

MANIFEST = "manifest.json"
FORMAT = 1


class TokenVector:
    """The token ids of one part, read from its shards as they are asked for. Safe to send to worker processes.

    Args:
        files: one vector `tokens` each.
        lengths: tokens of each that belong to the part.
        offsets: where in each file those begin; `None`: at its start.
    """

    def __init__(self, files: list[Path], lengths: list[int], offsets: list[int] | None = None):
        self._files = files
        self._offsets = offsets or [0] * len(files)
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, window: slice) -> np.ndarray:
        """`vector[start:stop]` as int64, across shards where need be."""
        start, stop, _ = window.indices(len(self))
        pieces = []
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            end = min(stop, int(self._starts[shard + 1]))
            offset = int(self._starts[shard]) - self._offsets[shard]
            pieces.append(self._tokens(shard)[start - offset : end - offset].astype(np.int64))
            start, shard = end, shard + 1
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)

    def release(self) -> None:
        """Unmaps the files until they are asked for again: what was read of them counts as this process' memory."""
        self._open.clear()

    def _tokens(self, shard: int) -> Any:
        if shard not in self._open:
            self._open[shard] = safe_open(self._files[shard], framework="numpy").get_slice("tokens")
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # an open file belongs to one process


def tokens_of(folder: Path, part: dict[str, Any]) -> TokenVector:
    """The tokens of a part in `folder`, from what the manifest says of it."""
    shards = part["shards"]
    return TokenVector(
        [folder / shard["file"] for shard in shards],
        [shard["tokens"] for shard in shards],
        [shard.get("offset", 0) for shard in shards],
    )


class TokenShards:
    """Prepared data, opened; the sizes of its shards are checked.

    Raises:
        InputError: the folder is incomplete, a shard has another size than recorded, or the ids were made by another
            tokenizer than the one beside them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder)
        if self.manifest is None:
            raise InputError(f"{folder} holds no readable {MANIFEST}: delete the folder to prepare it again")
        if self.manifest["format"] != FORMAT:
            raise InputError(f"{folder / MANIFEST} is not of format {FORMAT}: delete {folder} to prepare it again")
        self._check_sizes()
        self.tokenizer = load_tokenizer(str(folder / "tokenizer"))
        if tokenizer_sha256(self.tokenizer) != self.manifest["tokenizer"]["sha256"]:
            raise InputError(
                f"the tokenizer in {folder} is not the one that made its tokens: delete it to prepare it again"
            )

    def check_here(self) -> None:
        """For a process that has not opened the data itself but got this object from one that has.

        Raises:
            InputError: the machine of this process does not have the same data.
        """
        manifest = read_manifest(self.folder)
        if manifest != self.manifest:
            problem = "does not have" if manifest is None else "has another"
            raise InputError(
                f"a machine of this run {problem} {self.folder}, which the first process has found or prepared: put "
                "data_dir on a file system that all machines share, or copy the folder to each"
            )
        self._check_sizes()

    def _check_sizes(self) -> None:
        for part in SPLITS:
            for shard in self.manifest["parts"][part]["shards"]:
                file = self.folder / shard["file"]
                size = file.stat().st_size if file.exists() else 0
                if size != shard["bytes"]:
                    raise InputError(
                        f"{file} has {size} bytes, not {shard['bytes']} as written: delete {self.folder} to prepare it "
                        "again"
                    )

    def tokens(self, part: str) -> TokenVector:
        return tokens_of(self.folder, self.manifest["parts"][part])

    def utf8_bytes(self, part: str) -> int | None:
        """Bytes of the part's text; `None` where its tokens do not hold all of it: bits per byte would mean nothing."""
        counts = self.manifest["parts"][part]
        return None if counts.get("changed_bytes") else counts["utf8_bytes"]

    def losses(self) -> list[str]:
        """What the tokenizer loses of the parts that a model is measured on, in lines."""
        lines = []
        for part in SPLITS[1:]:
            counts = self.manifest["parts"][part]
            if not counts.get("changed_bytes"):
                continue
            if counts["unknown_tokens"]:
                share = counts["unknown_tokens"] / counts["tokens"]
                unknown = unknown_token(self.tokenizer.backend_tokenizer)
                loss = f"{_percent(share)} of the tokens of {part} are {unknown}"
            else:
                share = counts["changed_bytes"] / counts["utf8_bytes"]
                loss = f"{_percent(share)} of the text of {part} comes back from its tokens changed"
            lines.append(f"{loss}: the text cannot be had back, and bits per byte is left out")
        return lines

    def verify(self) -> None:
        """Reads every shard and compares its sha256 with the manifest's.

        Raises:
            InputError: a shard does not hold what was written; all such shards are named.
        """
        # A file of tokens that were made elsewhere can serve two parts.
        recorded = {shard["file"]: shard for part in SPLITS for shard in self.manifest["parts"][part]["shards"]}
        changed = []
        total = sum(shard["bytes"] for shard in recorded.values())
        with tqdm(total=total, desc="verifying", unit="B", unit_scale=True, delay=5) as progress:
            for name, shard in recorded.items():
                found = sha256_of(self.folder / name, progress.update)
                if found != shard["sha256"]:
                    changed.append(f"{self.folder / name} has sha256 {found}, not {shard['sha256']} as written")
        if changed:
            raise InputError("\n".join([*changed, f"delete {self.folder} to prepare it again"]))


def _percent(share: float) -> str:
    return "less than 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the manifest of prepared data says, or `None` where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "format" in manifest else None


def folder_name(corpus: str, contents: Any) -> str:
    """The name of prepared data.

    Args:
        corpus: its short name.
        contents: all that the data depends on.
    """
    return f"{corpus}-{sha256_of_values(contents)[:12]}"


def data_record(folder: Path) -> dict[str, Any] | None:
    """What the record of a run says of its data, or `None` where a folder is no prepared data."""
    manifest = read_manifest(folder)
    if manifest is None or not {"corpus", "split", "tokenizer", "parts"} <= manifest.keys():
        return None
    return {
        "folder": folder.name,
        "corpus": manifest["corpus"],
        "split": manifest["split"],
        "tokenizer_sha256": manifest["tokenizer"]["sha256"],
    }
