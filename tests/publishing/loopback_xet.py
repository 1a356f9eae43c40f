"""Xet storage for the loopback Hub: uploads arrive as xorbs of compressed chunks, and shards say which make a file.

The formats are those of huggingface.co/docs/xet. Chunks' own hashes are taken on trust; a file's sha256 is checked.
Clients ask for newer routes first (v2 of shards and reconstructions, grants for xorbs); a 404 makes them use these.
"""

import hashlib
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.publishing.loopback_requests import RefusalError, Reply, Request, byte_range, ranged
from tests.publishing.loopback_server import route

SHARD_MAGIC = b"HFRepoMetaData\0"
RECORD = 48  # bytes of every header and entry in a shard
WITH_VERIFICATION, WITH_SHA256 = 1 << 31, 1 << 30
LZ4_FRAME = b"\x04\x22\x4d\x18"
CHUNK_SIZE = 64 * 1024


def hash_name(raw: bytes) -> str:
    """Xet writes a hash as four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def lz4_block(block: bytes, output: bytearray) -> None:
    """Appends the block's content to the output, which it may copy from."""
    position = 0

    def length(nibble: int) -> int:
        nonlocal position
        total = nibble
        while nibble == 15:
            total += block[position]
            position += 1
            if block[position - 1] != 255:
                break
        return total

    while position < len(block):
        token = block[position]
        position += 1
        literals = length(token >> 4)
        output += block[position : position + literals]
        position += literals
        if position >= len(block):
            return  # the last sequence has no match
        distance = int.from_bytes(block[position : position + 2], "little")
        position += 2
        match = length(token & 15) + 4
        # A match longer than its distance repeats what it has just written.
        pattern = bytes(output[-distance:][:match])
        output += (pattern * (match // len(pattern) + 1))[:match]


def lz4_frame(frame: bytes) -> bytes:
    if frame[:4] != LZ4_FRAME:
        raise ValueError("not an LZ4 frame")
    flags = frame[4]
    has_size, has_dictionary, has_block_sums = flags & 0x08, flags & 0x01, flags & 0x10
    position = 7 + (8 if has_size else 0) + (4 if has_dictionary else 0)
    output = bytearray()
    while size := int.from_bytes(frame[position : position + 4], "little"):
        position += 4
        stored_plainly, size = size >> 31, size & 0x7FFFFFFF
        block = frame[position : position + size]
        if stored_plainly:
            output += block
        else:
            lz4_block(block, output)
        position += size + (4 if has_block_sums else 0)
    return bytes(output)


def ungrouped(grouped: bytes) -> bytes:
    """Undoes the grouping of every first, second, third and fourth byte."""
    content = bytearray(len(grouped))
    position = 0
    for offset in range(4):
        size = (len(grouped) + 3 - offset) // 4
        content[offset::4] = grouped[position : position + size]
        position += size
    return bytes(content)


DECODERS: dict[int, Callable[[bytes], bytes]] = {0: bytes, 1: lz4_frame, 2: lambda data: ungrouped(lz4_frame(data))}


class Xorb:
    """Compressed chunks one after the other; chunk i is in bytes offsets[i] to offsets[i + 1]."""

    def __init__(self, data: bytes):
        self.data = data
        self.offsets = [0]
        self.sizes: list[int] = []  # without compression
        while (position := self.offsets[-1]) < len(data) and data[position] == 0:  # a version; a footer begins with X
            self.sizes.append(int.from_bytes(data[position + 5 : position + 8], "little"))
            self.offsets.append(position + 8 + int.from_bytes(data[position + 1 : position + 4], "little"))

    def chunk(self, index: int) -> bytes:
        start, end = self.offsets[index : index + 2]
        content = DECODERS[self.data[start + 4]](self.data[start + 8 : end])
        if len(content) != self.sizes[index]:
            raise ValueError(f"chunk {index} has {len(content)} bytes, and {self.sizes[index]} were announced")
        return content


def packed(content: bytes) -> bytes:
    """A xorb of the content without compression."""
    chunks = [content[start : start + CHUNK_SIZE] for start in range(0, len(content), CHUNK_SIZE)]
    sizes = [len(chunk).to_bytes(3, "little") for chunk in chunks]
    return b"".join(b"\0" + size + b"\0" + size + chunk for size, chunk in zip(sizes, chunks, strict=True))


@dataclass(frozen=True)
class Segment:
    """Chunks `start` to `end` of a xorb, a stretch of a file."""

    xorb: str
    start: int
    end: int


def files_of(shard: bytes) -> Iterator[tuple[str, str, list[Segment]]]:
    """The Xet hash, the sha256 and the segments of every file in a shard."""
    if not shard.startswith(SHARD_MAGIC):
        raise ValueError("not a shard")
    records = (shard[start : start + RECORD] for start in range(RECORD, len(shard), RECORD))
    for header in records:
        if header[:32] == b"\xff" * 32:  # the end of the files; what follows describes xorbs
            return
        flags, count = struct.unpack_from("<2I", header, 32)
        segments = []
        for record in [next(records) for _ in range(count)]:
            _, _, start, end = struct.unpack_from("<4I", record, 32)
            segments.append(Segment(hash_name(record[:32]), start, end))
        if flags & WITH_VERIFICATION:
            for _ in range(count):
                next(records)
        sha256 = hash_name(next(records)[:32]) if flags & WITH_SHA256 else ""
        yield hash_name(header[:32]), sha256, segments


class Storage:
    """The content-addressed store behind `prefix`, with access tokens of its own."""

    prefix = "/xet"

    def __init__(self, register: Callable[[str, str, str, bytes], None]):
        """`register` is told the repository, the sha256, the Xet hash and the content of every uploaded file."""
        self.register = register
        self.tokens: dict[str, tuple[str, str]] = {}  # the repository and the right: read or write
        self.xorbs: dict[str, Xorb] = {}
        self.files: dict[str, list[Segment]] = {}
        self.address = ""  # of the server, once it is known
        self._signature = secrets.token_hex(8)

    def connection(self, repo: str, right: str) -> Reply:
        """What a client needs to know to talk to the store."""
        token = "xet_" + secrets.token_hex(16)
        self.tokens[token] = (repo, right)
        url, expiration = self.address + self.prefix, int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expiration)}
        return Reply({"casUrl": url, "accessToken": token, "exp": expiration}, 200, headers)

    def authorized(self, request: Request, right: str) -> str:
        """The repository whose token this is."""
        repo, granted = self.tokens.get(request.token, ("", ""))
        if not granted:
            raise RefusalError(401, "Unauthorized")
        if right == "write" != granted:
            raise RefusalError(403, "Forbidden")
        return repo

    def content(self, file: str) -> bytes:
        return b"".join(
            self.xorbs[segment.xorb].chunk(index)
            for segment in self.files[file]
            for index in range(segment.start, segment.end)
        )

    def add(self, content: bytes) -> str:
        """Stores a file that did not come over Xet, under a hash of our own."""
        file = hashlib.sha256(b"xet" + content).hexdigest()
        self.replace(file, content)
        return file

    def replace(self, file: str, content: bytes) -> None:
        """Downloads of the file get these bytes from now on."""
        xorb = secrets.token_hex(32)
        self.xorbs[xorb] = Xorb(packed(content))
        self.files[file] = [Segment(xorb, 0, len(self.xorbs[xorb].sizes))]

    @route("GET", prefix + "/v1/chunks/{namespace}/{chunk}")
    def find_chunk(self, request: Request, namespace: str, chunk: str):
        self.authorized(request, "write")
        raise RefusalError(404, "Not found")

    @route("POST", prefix + "/v1/xorbs/{namespace}/{xorb}")
    def receive_xorb(self, request: Request, namespace: str, xorb: str):
        self.authorized(request, "write")
        new = xorb not in self.xorbs
        self.xorbs[xorb] = Xorb(request.body)
        return {"was_inserted": new}

    @route("POST", prefix + "/v1/shards")
    def receive_shard(self, request: Request):
        repo = self.authorized(request, "write")
        for file, sha256, segments in files_of(request.body):
            if any(segment.xorb not in self.xorbs for segment in segments):
                raise RefusalError(400, "a shard refers to a xorb that was not uploaded")
            self.files[file] = segments
            content = self.content(file)
            if hashlib.sha256(content).hexdigest() != sha256:
                raise RefusalError(400, f"the chunks do not make a file with sha256 {sha256}")
            self.register(repo, sha256, file, content)
        return {"result": 1}

    @route("GET", prefix + "/v1/reconstructions/{file}")
    def reconstruct(self, request: Request, file: str):
        """Which chunks of which xorbs make the wanted bytes, and where these are."""
        self.authorized(request, "read")
        if file not in self.files:
            raise RefusalError(404, "Not found")
        size = sum(sum(self.xorbs[part.xorb].sizes[part.start : part.end]) for part in self.files[file])
        skip, parts = self.cut(file, *byte_range(request, size))
        terms, fetches = [], {}
        for part in parts:
            xorb, chunks = self.xorbs[part.xorb], {"start": part.start, "end": part.end}
            terms.append(
                {"hash": part.xorb, "unpacked_length": sum(xorb.sizes[part.start : part.end]), "range": chunks}
            )
            inclusive = {"start": xorb.offsets[part.start], "end": xorb.offsets[part.end] - 1}
            url = f"{self.address}{self.prefix}/xorb/{self._signature}/{part.xorb}"
            fetch = {"range": chunks, "url": url, "url_range": inclusive}
            if fetch not in fetches.setdefault(part.xorb, []):
                fetches[part.xorb].append(fetch)
        return {"offset_into_first_range": skip, "terms": terms, "fetch_info": fetches}

    def cut(self, file: str, first: int, last: int) -> tuple[int, list[Segment]]:
        """The chunks that hold these bytes of a file, and how many bytes come before them in the first chunk."""
        parts, position, skipped = [], 0, 0
        for part in self.files[file]:
            inside = []
            for index in range(part.start, part.end):
                begin, position = position, position + self.xorbs[part.xorb].sizes[index]
                if position <= first:
                    skipped = position
                elif begin <= last:
                    inside.append(index)
            if inside:
                parts.append(Segment(part.xorb, inside[0], inside[-1] + 1))
        return first - skipped, parts

    @route("GET", prefix + "/xorb/{signature}/{xorb}")
    def send_xorb(self, request: Request, signature: str, xorb: str):
        if signature != self._signature:
            raise RefusalError(403, "Forbidden")
        return ranged(request, self.xorbs[xorb].data, {})
