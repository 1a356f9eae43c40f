"""
A real llama.cpp, as `xllamacpp` brings it: its server, in this process and on the loopback alone.

Its settings are llama.cpp's own but for one thread and no warm-up: what a test sees is what users of the file get.
"""

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def llama_server(gguf: Path) -> Iterator[Callable[..., dict]]:
    """Serves a file, and gives what posts to it: a path and the fields of llama.cpp's own API."""
    xllamacpp = pytest.importorskip("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf)
    settings.n_ctx = 0  # the model's own
    settings.n_parallel = 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.warmup = False
    settings.verbosity = -1
    server = xllamacpp.Server(settings)

    def post(path: str, **fields) -> dict:
        request = urllib.request.Request(
            server.listening_address + path, json.dumps(fields).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    yield post


def greedy_tokens(gguf: Path, prompt: str | list[int], n: int) -> list[int]:
    """Up to `n` ids that llama.cpp writes after a text or ids, the likeliest each time.

    Fewer where a text ends, the last of which is then the token of the end: what our `generate` gives.
    """
    with llama_server(gguf) as post:
        return post("/completion", prompt=prompt, n_predict=n, temperature=0, return_tokens=True)["tokens"]


def tokens_of(gguf: Path, texts: list[str]) -> list[list[int]]:
    """The ids that llama.cpp cuts each text into, as it does with a prompt."""
    with llama_server(gguf) as post:
        return [post("/tokenize", content=text, add_special=True)["tokens"] for text in texts]
