"""
A real llama.cpp, as `xllamacpp` brings it: its server, in this process and on the loopback alone.

Its settings are llama.cpp's own but for the threads and no warm-up: what is seen is what users of the file get.
"""

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import xllamacpp
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@contextmanager
def llama_server(gguf: Path, threads: int) -> Iterator[Callable[..., dict]]:
    """Serves a file, and gives what posts to it: a path and the fields of llama.cpp's own API."""
    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf)
    settings.n_ctx = 0  # the model's own
    settings.n_parallel = 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.warmup = False
    settings.verbosity = -1
    server = xllamacpp.Server(settings)

    def post(path: str, **fields) -> dict:
        request = urllib.request.Request(
            server.listening_address + path, json.dumps(fields).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.load(response)

    yield post


def invented_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE for a model of random weights: the bytes, pairs of them, and the end of a text as last token."""
    letters, end = sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"
    pairs = list(product(letters, letters))[: vocab_size - len(letters) - 1]
    tokens = [*letters, *(first + second for first, second in pairs)]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)} | {end: vocab_size - 1}, pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(end, special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=end, eos_token=end)
