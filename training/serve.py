"""`python -m training serve MODEL [--port N]`: a model behind OpenAI's API, on this machine only, until Ctrl-C."""

import argparse

from transformers import logging

from .loading import load_for_generation
from .run.interruption import StopRequest
from .serving.server import listen
from .serving.writer import Writer

STOP_IS_SEEN_EVERY = 0.1  # seconds


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m training serve", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="a model folder or a Hub name; no other is ever opened")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: %(default)s)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="0.0.0.0: whoever reaches this machine may ask, without a password (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    logging.disable_progress_bar()
    stop = StopRequest()
    # First, as a port that is taken is then known before a model is read.
    with listen(arguments.host, arguments.port) as server:
        server.writer = Writer(arguments.model.rstrip("/"), *load_for_generation(arguments.model))
        server.between_requests = stop.raise_if_asked
        print(f"{arguments.model}: {server.url}  (Ctrl-C ends)", flush=True)
        try:
            with stop.listening():
                server.serve_forever(STOP_IS_SEEN_EVERY)
        finally:
            server.writer.close()
    return 0
