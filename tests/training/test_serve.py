"""`python -m training serve`: a model is served until somebody ends it, or the reason why it is not is one line."""

import json
import os
import re
import signal
import socket
import sys
import threading
import urllib.request

import pytest

from modeling_gpt_scratch.__main__ import main as convert
from training.__main__ import main


def ask(url: str, **body) -> dict:
    request = urllib.request.Request(
        f"{url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def serve_and(monkeypatch, tmp_path):
    """Serves a model in this process, asks it from a thread, ends it by a signal; returns exit code and answer."""

    def run(served: str, *options: str, number: int = signal.SIGTERM, **body) -> tuple[int, dict]:
        answers, ended, printed = [], threading.Event(), tmp_path / "printed"

        def client() -> None:
            while not (address := re.search(r"http://\S+", printed.read_text())):
                if ended.wait(0.02):
                    return
            try:
                answers.append(ask(address.group(), **body))
            finally:
                os.kill(os.getpid(), number)

        thread = threading.Thread(target=client)
        with printed.open("w") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            thread.start()
            code = main(["serve", served, "--port", "0", *options])
        ended.set()
        thread.join()
        [answer] = answers
        return code, answer

    # What a shell starts in the background ignores this signal, tests too.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield run
    signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_that_signals_exit_code(number, code, serve_and, finished_run, capsys):
    model = str(finished_run / "model")
    assert serve_and(f"{model}/", number=number, model=model, prompt="A light", max_tokens=5)[0] == code
    captured = capsys.readouterr()
    assert "interrupted\n" in captured.err
    assert "Traceback" not in captured.err


def test_a_text_is_the_one_that_generate_writes_with_that_seed(serve_and, finished_run, capsys):
    model = str(next(finished_run.glob("checkpoint-*")))
    options = {"prompt": "A light", "max_tokens": 20, "temperature": 0.8, "seed": 3}
    _, answer = serve_and(model, "--host", "localhost", **options)
    capsys.readouterr()
    assert main(["generate", model, "--prompt", "A light", "--max_new_tokens", "20", "--seed", "3"]) == 0
    assert capsys.readouterr().out == f"A light{answer['choices'][0]['text']}\n"


def test_gpt2_of_the_library_is_served_without_a_word_about_it(serve_and, finished_run, tmp_path, capfd):
    assert convert(["convert", str(finished_run / "model"), str(tmp_path / "gpt2"), "--to", "gpt2"]) == 0
    capfd.readouterr()
    _, answer = serve_and(str(tmp_path / "gpt2"), prompt="A light", max_tokens=5)
    assert answer["usage"]["prompt_tokens"] == 2
    assert capfd.readouterr().err == "interrupted\n"


def test_a_port_that_is_taken_is_named_before_the_model_is_opened(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "absent/model/anywhere", "--port", str(port)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: port {port} of 127.0.0.1 cannot be had (Address already in use): choose another")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("absent/model/anywhere",), "absent/model/anywhere does not exist"),
        (("EMPTY",), "is no model folder: it has no config.json"),
        (("EMPTY", "--port", "65536"), "port is 65536, but must be between 0 and 65535"),
        (("EMPTY", "--host", "nowhere.invalid"), "of nowhere.invalid cannot be had"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(options, message, tmp_path, capsys):
    words = [str(tmp_path) if word == "EMPTY" else word for word in options]
    assert main(["serve", *words, *(() if "--port" in words else ("--port", "0"))]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
