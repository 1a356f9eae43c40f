"""Serves a run's page and charts, on this machine only."""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ..errors import InputError
from ..record import METRICS, MODEL, RECIPE, RECORD, checkpoints_in, read_metrics, read_recipe, read_record
from .charts import CHARTS, charts_of, draw_chart, max_grad_norm_of
from .page import page_of
from .unit import unit_of

HOST = "127.0.0.1"


def serve(run: Path, port: int) -> ThreadingHTTPServer:
    """The server of a run's page, listening.

    Raises:
        InputError: the folder is no run, or the port cannot be had.
    """
    for name in (RECIPE, RECORD):
        if not (run / name).is_file():
            raise InputError(f"{run} is no run folder: it has no {name}")
    if not 0 <= port <= 65535:
        raise InputError(f"port is {port}, but must be between 0 and 65535")
    watched = WatchedRun(run)
    watched.page()  # what cannot be read is known before anybody looks
    try:
        server = RunServer((HOST, port), RunHandler)
    except OSError as error:
        raise InputError(f"port {port} cannot be had ({error.strerror}): choose another with --port") from None
    server.watched = watched
    return server


class WatchedRun:
    """A run folder as its page shows it. Charts are drawn when they are asked for, once for each state of the file."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lock = threading.Lock()  # matplotlib is not made for threads
        self.drawn: dict[str, tuple[str, bytes]] = {}  # name -> version, image

    def version(self) -> str:
        """Changes whenever metrics.jsonl does."""
        try:
            state = (self.folder / METRICS).stat()
        except FileNotFoundError:
            return "0"
        return f"{state.st_mtime_ns}-{state.st_size}"

    def chart(self, name: str) -> bytes:
        with self.lock:
            version = self.version()
            if self.drawn.get(name, ("", b""))[0] != version:
                image = draw_chart(name, read_metrics(self.folder), max_grad_norm_of(self.folder))
                self.drawn[name] = version, image
            return self.drawn[name][1]

    def page(self) -> str:
        recipe, record, metrics = read_recipe(self.folder), read_record(self.folder), read_metrics(self.folder)
        finished, saved = (self.folder / MODEL).exists(), checkpoints_in(self.folder)
        unit = unit_of(metrics, record.get("planned"))
        return page_of(
            name=self.folder.resolve().name,
            recipe=recipe,
            record=record if finished else {**record, "result": None},
            metrics=metrics,
            unit=unit,
            checkpoint=saved[-1].name if saved else None,
            charts={file: f"/{file}?{self.version()}" for file in charts_of(metrics, unit)},
            seconds_since_change=self._seconds_since_change(),
        )

    def _seconds_since_change(self) -> float | None:
        try:
            return max(0.0, time.time() - (self.folder / METRICS).stat().st_mtime)
        except FileNotFoundError:
            return None


class RunServer(ThreadingHTTPServer):
    daemon_threads = True
    # On Linux it only skips the wait after a restart; a port that another program listens on stays refused.
    allow_reuse_address = True
    watched: WatchedRun

    def handle_error(self, request, client_address):
        """A browser that went away is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class RunHandler(BaseHTTPRequestHandler):
    """Answers for the page and its charts; no request ever names a file."""

    server: RunServer
    server_version, sys_version = "watch", ""

    def do_GET(self) -> None:
        # Another site's page could reach this server under a name of its own that points here.
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):
            return self._answer(403, "text/plain", b"this page is for this machine only\n")
        name = self.path.split("?")[0].removeprefix("/")
        watched = self.server.watched
        try:
            if name == "":
                return self._answer(200, "text/html; charset=utf-8", watched.page().encode())
            if name in CHARTS:
                return self._answer(200, "image/png", watched.chart(name))
        except InputError as error:
            return self._answer(503, "text/plain; charset=utf-8", f"{error}\n".encode())
        return self._answer(404, "text/plain", b"no such page\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
            "script-src 'unsafe-inline'; frame-ancestors 'none'",
        )
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments) -> None:
        """Says nothing: a page that refreshes itself would fill the terminal."""
