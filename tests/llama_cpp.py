"""A real llama.cpp, asked on one thread: what a test sees is what users of the file get."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest


def llama_server(gguf: Path) -> AbstractContextManager[Callable[..., dict]]:
    """Serves a file, and gives what posts to it; skips a test where llama.cpp is not there."""
    pytest.importorskip("xllamacpp")
    from benchmarks import llama_cpp

    return llama_cpp.llama_server(gguf, threads=1)


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
