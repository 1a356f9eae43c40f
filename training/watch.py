"""`python -m training watch RUN [--port N]`: a run's live page, on this machine only, until Ctrl-C."""

import argparse
from pathlib import Path

from .view.server import HOST, serve


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m training watch", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, of a run that is going on or has ended")
    parser.add_argument("--port", type=int, default=8765, help="0: any free one (default: %(default)s)")
    arguments = parser.parse_args(argv)
    server = serve(arguments.run, arguments.port)
    print(f"{arguments.run}: http://{HOST}:{server.server_port}/  (Ctrl-C ends)", flush=True)
    with server:
        server.serve_forever()
    return 0
