"""Datasets on the Hub, streamed from one on this machine."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from training.data.hub_source import HubCorpus
from training.errors import InputError

ROOT = Path(__file__).parents[3]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as streaming a dataset of two tables asks for."""

    files: dict[str, bytes] = {}
    requested: list[str] = []

    def answer(self, content: bytes | object, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        begin, end = 0, len(data)
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end, status = int(wanted[1]), int(wanted[2] or len(data) - 1) + 1, 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data[begin:end])), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[begin:end])

    def entries(self, names: list[str]) -> list[dict]:
        sizes = {name: len(self.files[name]) for name in names}
        return [{"type": "file", "path": name, "size": size, "oid": f"{size:040x}"} for name, size in sizes.items()]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.requested.append(path)
        if re.fullmatch(r"/api/datasets/owner/tales(/revision/[^/]+)?", path):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer({"id": "owner/tales", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif path.startswith("/api/datasets/owner/tales/tree/"):
            at_root = re.fullmatch(r"/api/datasets/owner/tales/tree/[^/]+/?", path)
            found = self.entries(list(self.files)) if at_root else {}
            self.answer(found) if found else self.answer({}, 404, X_Error_Code="EntryNotFound")
        elif path.startswith(f"/datasets/owner/tales/resolve/{COMMIT}/"):
            name = path.split(f"{COMMIT}/")[1]
            if name in self.files:
                self.answer(self.files[name], ETag=f'"{len(self.files[name])}"', X_Repo_Commit=COMMIT)
            else:
                self.answer({}, 404, X_Error_Code="EntryNotFound")
        else:
            self.answer({}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self.requested.append(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode()
        if "/paths-info/" in self.path:
            wanted = json.loads(body)["paths"] if body.startswith("{") else re.findall(r"paths=([^&]+)", body)
            self.answer(self.entries([name for name in wanted if name in self.files]))
        else:
            self.answer({}, 404)

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def hub(tmp_path):
    """A server on this machine with the dataset owner/tales: 300 documents in two tables. Runs programs against it."""
    pytest.importorskip("datasets")
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    documents = [f"Tale {number}: one lamp, {number} ships." for number in range(300)]
    files = {}
    for number in range(2):
        file = tmp_path / f"train-{number:05d}-of-00002.parquet"
        half = documents[number * 150 : number * 150 + 150]
        parquet.write_table(pyarrow.table({"text": half, "id": list(range(150))}), file, row_group_size=50)
        files[file.name] = file.read_bytes()
        file.unlink()
    handler = type("TestHub", (Hub,), {"files": files, "requested": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # The library reads these when it is imported, so only another process can have other ones.
        environment = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}

        def run(program: str, *arguments: str) -> subprocess.CompletedProcess:
            words = [sys.executable, "-c", program, *arguments]
            return subprocess.run(
                words, env=environment, capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path
            )

        yield run
        server.shutdown()


STREAM = """
import json, sys
from configuration.data import DataConfig
from training.data.sources import open_corpus
corpus = open_corpus(DataConfig(corpus="hf:owner/tales"))
state, texts = None, []
while True:  # a new stream each time, from where the last one stood
    count = 0
    for document in corpus.documents(len(texts), state):
        texts.append("".join(document.pieces()))
        count += 1
        if count == 70:
            break
    state = json.loads(json.dumps(corpus.state()))
    if not count:
        break
print(json.dumps([corpus.name, corpus.description, texts]))
"""


def test_a_hub_dataset_is_streamed_and_goes_on_where_it_stood(hub, tmp_path):
    finished = hub(STREAM)
    assert finished.returncode == 0, finished.stderr[-3000:]
    name, description, found = json.loads(finished.stdout.splitlines()[-1])
    assert name == "owner--tales"
    assert description == {"corpus": "owner/tales", "revision": COMMIT, "config": None, "split": "train"}
    assert found == [f"Tale {number}: one lamp, {number} ships." for number in range(300)]
    assert not list(tmp_path.rglob("home/**/*.parquet"))


def test_rows_without_text_are_skipped_and_counted_also_where_a_stream_goes_on(monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = [{"page": {"body": body, "id": 1}, "other": "x"} for body in ("0", None, "", "1", None, "2")]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda **arguments: stream)

    def opened(text_field: str) -> HubCorpus:
        return HubCorpus("owner/tales", COMMIT, None, "train", text_field)

    corpus = opened("page.body")
    first = corpus.documents()
    assert ["".join(next(first).pieces()) for _ in range(2)] == ["0", "1"]
    state = json.loads(json.dumps(corpus.state()))
    for skip, came in ((2, None), (2, state)):
        again = opened("page.body")
        assert ["".join(document.pieces()) for document in again.documents(skip, came)] == ["2"]
        assert again.rows_without_text == 3
    with pytest.raises(InputError, match="row 1: no text in field 'page'; found: dict"):
        list(opened("page").documents())
    with pytest.raises(InputError, match=r"no text in field 'text'; found: page.body, page.id, other; set text_field"):
        list(opened("text").documents())


TOKENIZE = """
import sys
from training.data import tokenization
from training.__main__ import main
from training.data.work_folder import WorkFolder
if len(sys.argv) > 2:
    tokenization.BATCH_CHARACTERS, tokenization.SECONDS_BETWEEN_STATES = 500, 0
    if sys.argv[2] == "crash":
        save_state, calls = WorkFolder.save_state, []
        def crash(self, state):
            save_state(self, state)
            calls.append(state)
            if len(calls) == 9:
                sys.exit("crashed")
        WorkFolder.save_state = crash
words = "--model demo --corpus hf:owner/tales --tokens_per_step 1024 --output_dir run --vocab_size 300"
words += " --max_position_embeddings 32 --split_fractions [0.8,0.1,0.1] --tokenize_threads 1 --data_dir "
sys.exit(main(["tokenize", *words.split(), sys.argv[1]]))
"""


@pytest.mark.slow
def test_shards_of_a_hub_dataset_are_the_same_after_an_interruption(hub, tmp_path):
    assert "crashed" in hub(TOKENIZE, "cut", "crash").stderr
    again = hub(TOKENIZE, "cut", "goes on")
    assert "going on after" in again.stdout, again.stderr[-3000:]
    whole = hub(TOKENIZE, "whole")
    assert whole.returncode == 0, whole.stderr[-3000:]
    (first,), (second,) = ((tmp_path / name).iterdir() for name in ("cut", "whole"))
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest == json.loads((second / "manifest.json").read_text())
    assert manifest["corpus"]["documents"] == 300
    assert manifest["corpus"]["revision"] == COMMIT


MISTAKES = """
import sys
from training.__main__ import main
words = ["tokenize", "--model", "demo", "--tokens_per_step", "1024", "--output_dir", "run", "--tokenizer", "train"]
for mistake in (
    ["--corpus", "hf:owner/absent"],
    ["--corpus", "hf:owner/tales", "--dataset_split", "nonsense"],
    ["--corpus", "hf:owner/tales", "--text_field", "body"],
    ["--corpus", "hf:owner/tales", "--split", "contiguous"],
):
    print(main(words + mistake))
"""


def test_mistakes_with_a_hub_dataset_get_a_clear_line(hub, tmp_path):
    finished = hub(MISTAKES)
    assert finished.stdout.split("\n")[0] == "2"
    assert re.findall(r"^\d$", finished.stdout, flags=re.M) == ["2"] * 4, finished.stderr[-3000:]
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert "dataset owner/absent cannot be found" in errors[0]
    assert "dataset owner/tales cannot be opened: " in errors[1]
    assert "nonsense" in errors[1]
    assert "dataset owner/tales, row 1: no text in field 'body'; found: " in errors[2]
    assert "split is contiguous, but a streamed dataset's length is not known" in errors[3]
    assert not (tmp_path / "data").exists()
