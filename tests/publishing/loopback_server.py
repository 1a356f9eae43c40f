"""An HTTP server on 127.0.0.1 that remembers its requests and misbehaves on order."""

import contextlib
import json
import re
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote

from tests.publishing.loopback_requests import RefusalError, Reply, Request

# What a `{name}` in a route stands for. Revisions arrive quoted, so that refs/pr/1 is one segment. The files of a Space
# are at spaces/OWNER/NAME, which is its name here.
SEGMENTS = {"repo": "(?:spaces/)?[^/]+/[^/]+", "path": ".+"}


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose method and path match."""

    method: str
    pattern: str
    times: int = 1
    status: int | None = None  # answered instead of doing the work
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    drop: Literal["before", "after"] | None = None  # the connection is closed before or after the work
    truncate: int | None = None  # bytes of the body that are sent before the connection is closed
    delay: float = 0.0  # seconds before the work
    call: Callable[[], Any] | None = None  # runs before the work


def route(method: str, path: str):
    """Marks a method as the work behind a path such as `/api/models/{repo}/tree/{revision}`."""

    def mark(function):
        pattern = re.sub(r"\{(\w+)\}", lambda name: f"(?P<{name[1]}>{SEGMENTS.get(name[1], '[^/]+')})", path)
        function.routes = [*getattr(function, "routes", []), (method, re.compile(pattern))]
        return function

    return mark


class LoopbackServer:
    """One server at two addresses: `endpoint`, and `storage` for bytes, because another origin gets no Hub token."""

    def __init__(self, port: int = 0):
        self.port = port
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.failures: list[str] = []  # tracebacks of the server's own errors
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self._routes: list[tuple[str, re.Pattern, Callable]] = []
        self._listeners: list[tuple[ThreadingHTTPServer, threading.Thread]] = []
        self._connections: set[socket.socket] = set()
        self.add_routes(self)

    def add_routes(self, owner: object) -> None:
        for name in dir(type(owner)):
            for method, pattern in getattr(getattr(type(owner), name), "routes", []):
                self._routes.append((method, pattern, getattr(owner, name)))

    def __enter__(self):
        addresses = []
        for port in (self.port, 0):
            listener = ThreadingHTTPServer(("127.0.0.1", port), Handler)
            listener.daemon_threads = True
            listener.owner = self
            thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            self._listeners.append((listener, thread))
            addresses.append(f"http://127.0.0.1:{listener.server_address[1]}")
        self.endpoint, self.storage = addresses
        return self

    def __exit__(self, *error):
        self.stopping.set()
        for listener, thread in self._listeners:
            listener.shutdown()
            thread.join()
            listener.server_close()
        # Clients keep connections open; the threads behind them would wait for a next request.
        for connection in list(self._connections):
            close(connection)
        if self.failures and error == (None, None, None):
            raise AssertionError("the loopback server failed:\n" + "\n".join(self.failures))

    def fault(self, method: str, pattern: str, **what) -> Fault:
        """Makes matching requests go wrong; `Fault` lists the ways."""
        fault = Fault(method, pattern, **what)
        self.faults.append(fault)
        return fault

    def count(self, method: str, pattern: str) -> int:
        """The requests so far whose method is this and whose path matches."""
        return sum(request.method == method and bool(re.search(pattern, request.path)) for request in self.requests)

    def take_fault(self, request: Request) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == request.method and re.search(fault.pattern, request.path):
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                    return fault
        return None

    def reply(self, request: Request, fault: Fault | None) -> Reply | None:
        """Does the work, or what a fault says; None means that the connection is closed without an answer."""
        if fault is None:
            return self.work(request)
        self.stopping.wait(fault.delay)
        if fault.call:
            fault.call()
        if fault.drop == "before":
            return None
        if fault.status:
            return Reply({"error": "injected fault"} if fault.body is None else fault.body, fault.status, fault.headers)
        reply = self.work(request)
        return None if fault.drop == "after" else reply

    def work(self, request: Request) -> Reply:
        """Finds the route and runs it: one request at a time, so that routes need no locks of their own."""
        # So one route serves both kinds of repositories.
        path = re.sub("^/api/spaces/", "/api/models/spaces/", request.path.partition("?")[0])
        method = "GET" if request.method == "HEAD" else request.method
        for wanted, pattern, function in self._routes:
            match = pattern.fullmatch(path)
            if wanted == method and match:
                segments = {name: unquote(segment) for name, segment in match.groupdict().items()}
                try:
                    with self.lock:
                        answer = function(request, **segments)
                except RefusalError as refusal:
                    return refusal.reply
                return answer if isinstance(answer, Reply) else Reply(answer)
        return Reply({"error": "Sorry, we can't find the page you are looking for."}, 404)


def close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was quicker
        connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self):
        super().setup()
        self.server.owner._connections.add(self.connection)

    def finish(self):
        self.server.owner._connections.discard(self.connection)
        with contextlib.suppress(OSError):  # nobody reads the rest
            super().finish()

    def handle(self):
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client went away, or the server is stopping

    def log_message(self, *_):
        """Tests read `requests`; nothing belongs on their stderr."""

    def read_body(self) -> bytes:
        """Raises if the client goes away first: half a commit is no commit."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0] or b"-1", 16):
            chunks.append(self.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(chunks)

    def read(self, size: int) -> bytes:
        content = self.rfile.read(size) if size >= 0 else b""
        if len(content) != size:
            raise ConnectionError("the request ends early")
        return content

    def answer(self):
        owner = self.server.owner
        body = self.read_body()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        request = Request(self.command, self.path, token, len(body), headers=self.headers, body=body)
        owner.requests.append(request)
        fault = owner.take_fault(request)
        try:
            reply = owner.reply(request, fault)
        except Exception:
            owner.failures.append(f"{request}\n{traceback.format_exc()}")
            reply = Reply({"error": "Internal Server Error"}, 500)
        if reply:
            self.send(request, reply, fault.truncate if fault else None)
        else:
            self.hang_up()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def send(self, request: Request, reply: Reply, truncate: int | None) -> None:
        headers = reply.headers
        content = reply.body
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json; charset=utf-8"} | headers
        request.status = reply.status
        self.send_response(reply.status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:truncate])
        self.wfile.flush()
        if truncate is not None:
            self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True
        close(self.connection)


def serve(server: LoopbackServer, announcement: Callable[[], str]) -> None:
    """Runs a server by hand until Ctrl-C."""
    with server:
        print(announcement(), flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
