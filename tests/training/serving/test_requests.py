"""Requests as any program may send them: done as asked, or refused with a reason."""

import http.client
import json
import socket
import threading

import pytest

from tests.training.serving.conftest import ANSWER, CONTINUATION, POSITIONS, PROMPT, QUESTION

JSON = {"Content_Type": "application/json"}
LONG = "the old light " * POSITIONS


def refusal(answer: tuple[int, dict]) -> tuple[int, str]:
    status, body = answer
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return status, body["error"]["message"]


def test_without_a_number_of_tokens_a_text_has_16_and_a_chat_goes_to_its_end(ask):
    status, answer = ask(prompt=PROMPT)
    assert (status, answer["usage"]["completion_tokens"]) == (200, 16)
    assert CONTINUATION.startswith(answer["choices"][0]["text"])
    status, answer = ask(messages=QUESTION)
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert ask(messages=QUESTION, max_completion_tokens=3)[1]["usage"]["completion_tokens"] == 3


def test_an_empty_prompt_begins_a_text(ask):
    assert ask(prompt="")[1]["usage"]["prompt_tokens"] == 1


def test_what_asks_for_nothing_is_accepted(ask):
    idle = {"user": "alice", "metadata": {}, "n": 1, "logprobs": None, "frequency_penalty": 0.0, "logit_bias": {}}
    assert ask(prompt=PROMPT, max_tokens=40, **idle)[1]["choices"][0]["text"] == CONTINUATION


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": LONG}, f"but the model holds {POSITIONS}, the new ones included: shorten it"),
        ({"prompt": [5] * 7, "max_tokens": 250}, "max_tokens is 250, but after 7 tokens of prompt 249 are left"),
        ({"prompt": [5, 400]}, "token ids that are not between 0 and 399"),
        ({"prompt": None}, "prompt must be text"),
        ({"prompt": []}, "prompt is an empty list"),
        ({"prompt": "\ud800"}, "prompt holds half a surrogate pair"),
        ({"prompt": "A", "max_tokens": 0}, "max_tokens must be a whole number between 1 and"),
        ({"prompt": "A", "max_tokens": True}, "max_tokens must be a whole number"),
        ({"prompt": "A", "max_tokens": 1, "max_completion_tokens": 1}, "are the same: give one"),
        ({"prompt": "A", "temperature": 3}, "temperature must be a number between 0 and 2"),
        ({"prompt": "A", "temperature": float("nan")}, "temperature must be a number between 0 and 2"),
        ({"prompt": "A", "seed": "1"}, "seed must be a whole number"),
        ({"prompt": "A", "stop": [""]}, "stop must be a text or a list of texts, none of them empty"),
        ({"prompt": "A", "stream": "yes"}, "stream must be true or false"),
        ({"prompt": "A", "stream_options": {"include_usage": True}}, "stream_options are for a stream alone"),
        ({"prompt": "A", "logprobs": 0}, "logprobs is not supported here: leave it out"),
        ({"prompt": "A", "presence_penalty": 0.5}, "presence_penalty is not supported here"),
        ({"prompt": "A", "messages": QUESTION}, "prompt is not supported here"),
        ({"prompt": "A", "temprature": 1}, "temprature is not supported here"),
        ({"messages": []}, "messages must be a list of messages, and not empty"),
        ({"messages": ["Hello"]}, "each of messages must have a role and a content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content may hold text alone"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "the chat template refuses these messages: no robots"),
        ({"messages": QUESTION, "tools": [{"type": "function"}]}, "tools is not supported here"),
    ],
)
def test_what_cannot_be_done_as_asked_is_refused(fields, message, ask):
    status, found = refusal(ask(**fields))
    assert status == 400
    assert message in found


@pytest.mark.parametrize("content", [b'{"prompt":', b"[1]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(content, send):
    status, message = refusal(send("/v1/completions", content, **JSON))
    assert status == 400
    assert message.startswith("the request ")


def test_no_request_opens_another_model(ask, send, tmp_path):
    for name in ("gpt2", str(tmp_path), None, ["runs/mine/model"]):
        status, message = refusal(ask(model=name, prompt=PROMPT))
        assert status == 404
        assert message.endswith("is not here: this server has runs/mine/model alone")
    assert send("/load_model", b'{"model": "gpt2"}', **JSON)[0] == 404
    assert send("/v1/models/..%2F..%2Fetc%2Fpasswd")[0] == send("/etc/passwd")[0] == 404


def test_pages_of_other_sites_get_nothing(send):
    assert refusal(send("/v1/models", Host="evil.example")) == (
        403,
        "ask for this server by its address, as localhost, or by what --host says",
    )
    assert send("/v1/completions", b'{"prompt": "A"}', Host="evil.example:8000", **JSON)[0] == 403
    for host in ("localhost", "127.0.0.1:1", "[::1]:8000"):
        assert send("/v1/models", Host=host)[0] == 200
    # A page may send this without being allowed to, and JSON only if the server says so when it is asked before.
    status, message = refusal(send("/v1/completions", b'{"prompt": "A"}', Content_Type="text/plain"))
    assert status == 415
    assert "Content-Type: application/json" in message


def test_a_body_of_unknown_or_unreasonable_size_is_not_read(send):
    assert send("/v1/completions", b"{}", Content_Length="9" * 5000, **JSON)[0] == 413
    assert send("/v1/completions", b"{}", Transfer_Encoding="chunked", **JSON)[0] == 411


def test_a_connection_is_used_again_even_after_a_refusal(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    for model, status in ((None, 404), ("runs/mine/model", 200)) * 2:
        body = json.dumps({"model": model, "prompt": PROMPT, "max_tokens": 1})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.will_close) == (status, False)
    connection.close()


def test_a_failure_of_the_server_is_told_as_one_and_does_not_end_it(ask, folder, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(folder.model, "generate", fail)
        assert refusal(ask(prompt=PROMPT)) == (500, "the server has failed: its terminal says how")
    assert ask(prompt=PROMPT, max_tokens=40)[1]["choices"][0]["text"] == CONTINUATION
    assert "out of memory" in capsys.readouterr().err


def test_old_http_gets_a_stream_without_chunks(server):
    body = json.dumps({"prompt": PROMPT, "stream": True, "temperature": 0}).encode()
    head = f"POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        events = connection.makefile().read().partition("\n\n")[2].split("\n\n")
    assert all(event.startswith("data: ") for event in events[:-1])
    assert events[-2:] == ["data: [DONE]", ""]


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_being_written_when_the_server_ends_is_given_up_and_not_taken_for_whole(
    stream, endless, ask, server, folder
):
    tokens, begun, failures = [], threading.Event(), []

    def count(*_) -> None:
        tokens.append(1)
        if len(tokens) == 10:
            begun.set()
            assert server.writer.closing.wait(30)

    def listen() -> None:
        try:
            ask(prompt="A light", max_tokens=250, stream=stream)
        except (OSError, http.client.HTTPException) as error:
            failures.append(type(error))

    hook = folder.model.register_forward_hook(count)
    thread = threading.Thread(target=listen)
    thread.start()
    assert begun.wait(30)
    server.writer.close()
    thread.join()
    hook.remove()
    assert failures == [http.client.IncompleteRead if stream else http.client.RemoteDisconnected]
    assert len(tokens) == 10
