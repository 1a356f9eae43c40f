"""OpenAI's own client asks the server."""

import re
import threading
from pathlib import Path

import pytest

from tests.training.serving.conftest import ANSWER, CONTINUATION, PROMPT, QUESTION

pytest.importorskip("openai", reason="needs OpenAI's client")

from openai import APIError, BadRequestError, NotFoundError, OpenAI

MODEL = "runs/mine/model"
PAGE = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.fixture
def client(server):
    with OpenAI(base_url=server.url, api_key="none", timeout=30, max_retries=0) as client:
        yield client


@pytest.fixture
def complete(client):
    def complete(**options):
        return client.completions.create(
            **{"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0} | options
        )

    return complete


@pytest.fixture
def chat(client):
    def chat(**options):
        return client.chat.completions.create(
            **{"model": MODEL, "messages": QUESTION, "max_tokens": 40, "temperature": 0} | options
        )

    return chat


def greedy(folder, batch: dict, tokens: int) -> str:
    generated = folder.model.generate(**batch, max_new_tokens=tokens, do_sample=False)
    return folder.tokenizer.decode(generated[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_model_is_listed_and_no_other(client):
    [model] = client.models.list()
    assert model.id == client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(NotFoundError, match="this server has runs/mine/model alone"):
        client.models.retrieve("gpt2")


@pytest.mark.parametrize("tokens", [3, 40])
def test_plain_text_is_continued_as_generate_does(tokens, complete, folder):
    reply = complete(max_tokens=tokens)
    [choice] = reply.choices
    assert choice.text == greedy(folder, folder.tokenizer(PROMPT, return_tensors="pt"), tokens)
    assert CONTINUATION.startswith(choice.text)
    assert (choice.text == CONTINUATION) == (choice.finish_reason == "stop") == (tokens == 40)
    written = len(folder.tokenizer(CONTINUATION)["input_ids"]) + 1  # and the end of text
    assert reply.usage.prompt_tokens == len(folder.tokenizer(PROMPT)["input_ids"])
    assert reply.usage.completion_tokens == min(tokens, written)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_conversation_is_answered_as_generate_does(chat, folder):
    reply = chat()
    batch = folder.tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    assert reply.choices[0].message.content == greedy(folder, batch, 40) == ANSWER
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.prompt_tokens == batch["input_ids"].shape[1]
    in_parts = chat(messages=[{"role": "user", "content": [{"type": "text", "text": "Who knocked?"}]}])
    assert in_parts.choices[0].message.content == ANSWER


def test_a_stream_gives_the_same_text_in_pieces(complete, chat):
    *chunks, last = complete(stream=True, stream_options={"include_usage": True})
    pieces = [chunk.choices[0].text for chunk in chunks]
    assert "".join(pieces) == CONTINUATION  # é is two tokens, and never half of it is sent
    assert len([piece for piece in pieces if piece]) > 10
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert last.choices == []
    assert last.usage == complete().usage

    chunks = list(chat(stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_ends_before_a_stop_text_and_what_only_begins_like_one_is_kept(stream, complete):
    stop = [" them was", " carries a"]
    answer = complete(stop=stop, stream=stream)
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    assert "".join(choice.text for choice in choices) == " and not one of them"
    assert choices[-1].finish_reason == "stop"
    assert complete(stop="absent").choices[0].text == CONTINUATION


def test_a_seed_repeats_a_text(complete):
    wild = {"temperature": 2, "prompt": "When", "max_tokens": 20}
    first = complete(seed=1, **wild).choices[0].text
    assert complete(seed=1, **wild).choices[0].text == first
    assert complete(seed=2, **wild).choices[0].text != first
    unseeded = [(complete(seed=1, **wild), complete(**wild))[1].choices[0].text for _ in range(2)]
    assert unseeded[0] != unseeded[1]  # no seed is left over
    assert complete(temperature=2, seed=1, extra_body={"top_k": 1}).choices[0].text == CONTINUATION
    assert complete(temperature=2, seed=1, top_p=0).choices[0].text == CONTINUATION


def test_several_prompts_and_choices_are_answered_in_one(complete, folder):
    prompts = [PROMPT, "Seven ships and"]
    reply = complete(prompt=prompts, n=2)
    texts = [CONTINUATION, CONTINUATION.removeprefix(" and")]
    assert [choice.text for choice in reply.choices] == [texts[0], texts[0], texts[1], texts[1]]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    ids = folder.tokenizer(prompts)["input_ids"]
    assert [choice.text for choice in complete(prompt=ids).choices] == texts
    assert complete(prompt=ids[0]).choices[0].text == CONTINUATION


def test_requests_at_the_same_time_are_all_answered(complete, chat):
    answers = []
    requests = [lambda: answers.append(complete().choices[0].text)] * 2
    requests += [lambda: answers.append("".join(c.choices[0].delta.content or "" for c in chat(stream=True)))] * 2
    threads = [threading.Thread(target=request) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted([CONTINUATION] * 2 + [ANSWER] * 2)


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_written_for_a_client_that_has_gone(stream, endless, folder, complete):
    tokens, heard = [], threading.Event()

    def count(*_) -> None:
        tokens.append(1)
        if len(tokens) == 10:
            assert heard.wait(30)

    hook = folder.model.register_forward_hook(count)
    try:
        if stream:
            with complete(max_tokens=250, stream=True) as chunks:
                next(iter(chunks))
        else:
            with pytest.raises(Exception, match="timed out"):
                complete(max_tokens=250, timeout=0.5)
        heard.set()
        complete(prompt="When", max_tokens=1)
    finally:
        hook.remove()
    assert len(tokens) < 200


def test_a_failure_within_a_stream_is_an_error(complete, folder, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(folder.model, "generate", fail)
    with pytest.raises(APIError, match="the server has failed: its terminal says how"):
        list(complete(stream=True))


def test_the_page_about_serving_is_true(server, send, chat, capsys):
    requests = re.findall(r"(/v1/\S+) -H 'Content-Type: application/json' \\\n +-d '(.*)'", PAGE)
    assert [path for path, _ in requests] == ["/v1/completions"]
    for path, body in requests:
        body = body.replace("runs/demo/model", MODEL)
        assert send(path, body.encode(), Content_Type="application/json")[0] == 200
    [example] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(example.replace("runs/demo/model", MODEL).replace("8000", str(server.server_port)), {})
    assert ANSWER in capsys.readouterr().out


def test_a_model_without_chat_template_says_what_to_do(chat, server, folder, monkeypatch):
    monkeypatch.setattr(folder.tokenizer, "chat_template", None)
    with pytest.raises(BadRequestError, match="has no chat template: ask /v1/completions") as refusal:
        chat()
    assert refusal.value.code == "no_chat_template"
