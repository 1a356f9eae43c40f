"""Serves one model over HTTP. No request can name a file or another model, and no other site's page can ask."""

import ipaddress
import json
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from ..errors import InputError
from .answers import Answer, error_body, model_card
from .fields import RefusedError, read_options
from .prompts import read_conversation, read_prompts
from .writer import Piece, Writer

LARGEST_BODY = 16 * 2**20  # bytes; far more than any model's context
DEFAULT_TOKENS = 16  # of plain text, where none are asked for: OpenAI's. A chat goes on as far as the model has room.


def listen(host: str, port: int) -> "ModelServer":
    """A server that listens, and answers as soon as it has a `writer` and serves.

    Raises:
        InputError: the address cannot be had.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port is {port}, but must be between 0 and 65535")
    try:
        return ModelServer(host, port)
    except OSError as error:
        raise InputError(
            f"port {port} of {host} cannot be had ({error.strerror}): choose another with --port, or with --host"
        ) from None


class ModelServer(ThreadingHTTPServer):
    """Listens at one address, a thread for each connection."""

    daemon_threads = True
    request_queue_size = 256  # of connections that wait for their thread: of the default of 5, a burst loses some
    # On Linux it only skips the wait after a restart; a port that another program listens on stays refused.
    allow_reuse_address = True
    writer: Writer

    def __init__(self, host: str, port: int):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host = host
        self.created = int(time.time())
        self.between_requests: Callable[[], None] = lambda: None
        super().__init__((host, port), RequestHandler)

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.server_port}/v1"

    def service_actions(self) -> None:
        self.between_requests()

    def knows(self, header: str) -> bool:
        """Whether a Host header is this server's.

        Another site's page could reach it under a name of its own that points here: an address is nobody's own name.
        """
        name = header.rsplit(":", 1)[0] if not header.endswith("]") else header
        if name in ("localhost", self.host):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def handle_error(self, request, client_address):
        """A client that went away is no news."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class RequestHandler(BaseHTTPRequestHandler):
    """Answers as OpenAI's API does, for the one model."""

    server: ModelServer
    server_version, sys_version = "serve", ""
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a byte, from a client that is expected to send or to take one

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def _respond(self, act: Callable[[], None]) -> None:
        self.answered = False
        try:
            if not self.server.knows(self.headers.get("Host", "")):
                self.close_connection = True  # a body, if any, is not read
                raise RefusedError(
                    "ask for this server by its address, as localhost, or by what --host says", status=403
                )
            act()
        except RefusedError as refusal:
            kind = "invalid_request_error"
            body = error_body(str(refusal), kind=kind, field=refusal.field, code=refusal.code)
            self._answer(refusal.status, body)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            # The client learns that it was not its fault; what it was is told where the server was started.
            self.close_connection = True
            body = error_body("the server has failed: its terminal says how", kind="server_error")
            if self.answered:
                self._event(json.dumps(body))
            else:
                self._answer(500, body)
            raise

    def _get(self) -> None:
        path = unquote(self.path.split("?")[0])
        card = model_card(self.server.writer.name, self.server.created)
        if path == "/v1/models":
            return self._answer(200, {"object": "list", "data": [card]})
        if path.startswith("/v1/models/"):
            self._check_model(path.removeprefix("/v1/models/"))
            return self._answer(200, card)
        raise RefusedError(f"there is nothing to get at {path}", status=404)

    def _post(self) -> None:
        body, writer = self._body(), self.server.writer
        path = self.path.split("?")[0]
        if path not in ("/v1/completions", "/v1/chat/completions"):
            raise RefusedError(f"there is nothing to ask at {path}", status=404)
        self._check_model(body.pop("model", writer.name))
        chat = path == "/v1/chat/completions"
        field, read = ("messages", read_conversation) if chat else ("prompt", read_prompts)
        options = read_options(body, field)
        prompts = read(body.get(field), writer.tokenizer)
        new_tokens = writer.room(prompts, options.max_tokens, writer.positions if chat else DEFAULT_TOKENS)
        answer = Answer(model=writer.name, chat=chat, prompt_tokens=sum(map(len, prompts)))
        with closing(writer.write(prompts, new_tokens, options)) as pieces:
            if options.stream:
                self._stream(answer, pieces, options.include_usage)
            else:
                self._collect(answer, pieces, len(prompts) * options.choices)

    def _collect(self, answer: Answer, pieces: Iterator[Piece], choices: int) -> None:
        texts, ends = [""] * choices, []
        for piece in pieces:
            self._check_client()
            texts[piece.choice] += piece.text
            ends += [piece] * (piece.finish_reason is not None)
        self._answer(200, answer.whole(texts, ends))

    def _stream(self, answer: Answer, pieces: Iterator[Piece], include_usage: bool) -> None:
        self.close_connection = True  # where the stream ends
        # In chunks, a stream that was cut off can be told from a whole one; HTTP/1.0 has none.
        self.chunked = self.request_version != "HTTP/1.0"
        framing = [("Transfer-Encoding", "chunked")] if self.chunked else []
        self._head(200, "text/event-stream; charset=utf-8", [("Connection", "close"), *framing])
        begun, ends = set(), []
        for piece in pieces:
            self._check_client()
            if answer.chat and piece.choice not in begun:
                self._event(json.dumps(answer.opening(piece.choice)))
                begun.add(piece.choice)
            if piece.text or piece.finish_reason:
                self._event(json.dumps(answer.chunk(piece)))
            ends += [piece] * (piece.finish_reason is not None)
        if include_usage:
            self._event(json.dumps(answer.closing(ends)))
        self._event("[DONE]")
        if self.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> dict[str, Any]:
        keep, self.close_connection = self.close_connection, True  # unread, it would be taken for the next request
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            raise RefusedError("a request needs a Content-Length", status=411)
        if len(length) > len(str(LARGEST_BODY)) or int(length) > LARGEST_BODY:
            raise RefusedError(f"a request may have {LARGEST_BODY} bytes", status=413)
        content = self.rfile.read(int(length))
        self.close_connection = keep
        # Browsers let any site's page send other types, but ask the server first before they send this one.
        if self.headers.get_content_type() != "application/json":
            raise RefusedError("a request must say that it is JSON: Content-Type: application/json", status=415)
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RefusedError(f"the request is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise RefusedError("the request must be a JSON object")
        return body

    def _check_model(self, name: Any) -> None:
        if name != self.server.writer.name:
            raise RefusedError(
                f"model {name!r} is not here: this server has {self.server.writer.name} alone",
                status=404,
                field="model",
                code="model_not_found",
            )

    def _check_client(self) -> None:
        """Nobody writes for a client that has gone.

        Raises:
            ConnectionAbortedError: it has.
        """
        if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionAbortedError("the client has gone")

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        closing_ = [("Connection", "close")] if self.close_connection else []
        self._head(status, "application/json", [("Content-Length", str(len(content))), *closing_])
        self.wfile.write(content)

    def _event(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event) if self.chunked else event)

    def _head(self, status: int, kind: str, headers: list[tuple[str, str]]) -> None:
        self.answered = True
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("X-Content-Type-Options", "nosniff"), *headers):
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def log_message(self, format, *arguments) -> None:
        """Says nothing: a line for each request would fill the terminal."""
