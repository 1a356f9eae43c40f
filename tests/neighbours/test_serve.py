"""The converted model behind `transformers serve`, asked by the OpenAI client."""

import copy
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
pytest.importorskip("openai", reason="needs the extra 'serve'")

from openai import OpenAI

from modeling_gpt_scratch.__main__ import main
from tests.strangers import stranger_environment

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ message["role"] + ":\n" + message["content"] + (eos_token if message["role"] == "assistant" else "\n") }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "assistant:\n" }}{%- endif -%}"""
QUESTION = [{"role": "user", "content": "Who knocked?"}]
ANSWER = [{"role": "assistant", "content": "Your lamp brought us home."}]
PROMPT, CONTINUATION = "Seven ships", " and not one of them carries a letter."
READY_WITHIN = 90  # seconds; importing and loading takes five on an idle machine


def learn(model, texts: list[str], tokenizer) -> None:
    """Until the model knows the texts by heart, so that its answers are words and end by themselves."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    model.train()
    for _ in range(40):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until_ready(process: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"no answer from {url} within {READY_WITHIN} s\n{log.read_text()}")


@pytest.fixture(scope="module")
def served(tiny_model, tokenizer, tmp_path_factory):
    """A client of the server, and the gpt-scratch model from which the served folder was converted."""
    workplace = tmp_path_factory.mktemp("served")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    model = tiny_model(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    chat = tokenizer.apply_chat_template(QUESTION + ANSWER, tokenize=False)
    learn(model, [chat, PROMPT + CONTINUATION + tokenizer.eos_token], tokenizer)
    model.save_pretrained(workplace / "model")
    tokenizer.save_pretrained(workplace / "model")
    assert main(["convert", str(workplace / "model"), str(workplace / "gpt2"), "--to", "gpt2"]) == 0

    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", "gpt2", "--device", "cpu"]
    log = workplace / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=workplace,
            env=stranger_environment(workplace) | {"OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to be ended as a whole
        )
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=60, max_retries=0)
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health", log)
        yield SimpleNamespace(client=client, model=model, tokenizer=tokenizer)
    finally:
        client.close()
        try:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        except ProcessLookupError:
            process.wait()


def greedy(served, batch: dict, tokens: int) -> str:
    options = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": served.tokenizer.pad_token_id}
    generated = served.model.generate(**batch, **options)[0, batch["input_ids"].shape[1] :]
    return served.tokenizer.decode(generated, skip_special_tokens=True)


def question(served) -> dict:
    return served.tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )


@pytest.mark.slow
def test_a_chat_answer_is_the_models_own_greedy_one(served):
    reply = served.client.chat.completions.create(model="gpt2", messages=QUESTION, max_tokens=30, temperature=0)
    assert reply.choices[0].message.content == greedy(served, question(served), 30) == ANSWER[0]["content"]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.prompt_tokens == question(served)["input_ids"].shape[1]


@pytest.mark.slow
def test_a_streamed_answer_is_the_same_in_pieces(served):
    stream = served.client.chat.completions.create(
        model="gpt2", messages=QUESTION, max_tokens=30, temperature=0, stream=True
    )
    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    pieces = [piece for piece in pieces if piece]
    assert len(pieces) > 1
    assert "".join(pieces) == greedy(served, question(served), 30) == ANSWER[0]["content"]


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [3, 30])
def test_plain_text_is_continued_greedily(served, tokens):
    reply = served.client.completions.create(model="gpt2", prompt=PROMPT, max_tokens=tokens, temperature=0)
    batch = served.tokenizer(PROMPT, return_tensors="pt")
    text = reply.choices[0].text
    assert text == greedy(served, batch, tokens)
    assert CONTINUATION.startswith(text)
    assert (text == CONTINUATION) == (reply.choices[0].finish_reason == "stop") == (tokens == 30)
