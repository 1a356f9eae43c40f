"""A served model that knows a few texts by heart, so that its answers are words and end by themselves."""

import copy
import http.client
import json
import threading
from types import SimpleNamespace

import pytest
import torch

from training.serving.server import listen
from training.serving.writer import Writer

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message["role"] == "robot" -%}{{ raise_exception("no robots") }}{%- endif -%}
{{ message["role"] + ":\n" + message["content"] + (eos_token if message["role"] == "assistant" else "\n") }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "assistant:\n" }}{%- endif -%}"""
QUESTION = [{"role": "user", "content": "Who knocked?"}]
ANSWER = "Your lamp brought us home."
PROMPT, CONTINUATION = "Seven ships", " and not one of them carries a létter."
POSITIONS = 256


def learn(model, texts: list[str], tokenizer) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    model.train()
    for _ in range(40):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.fixture(scope="module")
def folder(tiny_model, tokenizer, tmp_path_factory):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=POSITIONS, **special)
    chat = tokenizer.apply_chat_template([*QUESTION, {"role": "assistant", "content": ANSWER}], tokenize=False)
    learn(model, [chat, PROMPT + CONTINUATION + tokenizer.eos_token], tokenizer)
    path = tmp_path_factory.mktemp("served") / "model"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return SimpleNamespace(path=path, model=model, tokenizer=tokenizer)


@pytest.fixture
def server(folder):
    """The folder's server, in this process."""
    with listen("127.0.0.1", 0) as server:
        server.writer = Writer("runs/mine/model", folder.model, folder.tokenizer)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.writer.close()
        server.shutdown()
        thread.join()


@pytest.fixture
def send(server):
    """Sends a request, and returns its status and the JSON of its answer."""

    def send(path: str, content: bytes | None = None, **headers: str) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if content is None else "POST", path, content, headers)
        answer = connection.getresponse()
        result = answer.status, json.loads(answer.read())
        connection.close()
        return result

    return send


@pytest.fixture
def ask(send):
    """Asks for a text or, with `messages`, for an answer; greedily unless told otherwise."""

    def ask(**body) -> tuple[int, dict]:
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        return send(path, json.dumps({"temperature": 0} | body).encode(), Content_Type="application/json")

    return ask


@pytest.fixture
def endless(folder, monkeypatch):
    """Leaves the token that ends a text out, so that texts go on until somebody ends them or the model is full."""
    monkeypatch.setattr(folder.model.generation_config, "suppress_tokens", [folder.tokenizer.eos_token_id])
