"""What goes to and fro between a client and the loopback server: requests, replies, refusals, ranges of bytes."""

import json
import re
from dataclasses import dataclass, field
from email.message import Message
from typing import Any
from urllib.parse import parse_qs, parse_qsl


@dataclass
class Request:
    """One request; `status` is 0 while there is no answer, and stays 0 if there never is one."""

    method: str
    path: str  # with the query, as it was sent
    token: str | None
    size: int  # of the body, in bytes
    status: int = 0
    headers: Message = field(default_factory=Message, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.path.partition("?")[2]))

    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.body.decode())


@dataclass
class Reply:
    """An answer: bytes go out as they are, anything else as JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class RefusalError(Exception):
    """An answer that ends the work: the Hub's error headers, and the message in the body too."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None, **body):
        super().__init__(message)
        in_header = message.encode("ascii", "replace").decode()
        headers = {"X-Error-Message": in_header} | ({"X-Error-Code": code} if code else {}) | (headers or {})
        self.reply = Reply({"error": message} | body, status, headers)


def byte_range(request: Request, size: int) -> tuple[int, int]:
    """The first and the last byte that the request's Range asks for, of a content of this size."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    first, last = (int(bound) if bound else None for bound in asked.groups()) if asked else (0, None)
    if first is None:  # the last so many bytes
        first, last = max(0, size - (last or 0)), None
    last = size - 1 if last is None else min(last, size - 1)
    if asked and first > last:
        raise RefusalError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return first, last


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Reply:
    """The bytes that the request's Range asks for, or all of them."""
    headers = headers | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    first, last = byte_range(request, len(content))
    if "Range" not in request.headers:
        return Reply(content, 200, headers)
    return Reply(content[first : last + 1], 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"})
