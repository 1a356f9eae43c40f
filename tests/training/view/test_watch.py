"""`python -m training watch`: a run's page."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from training.__main__ import main
from training.view.charts import CHARTS
from training.view.page import count, duration
from training.view.server import serve

ROOT = Path(__file__).parents[3]
TRAINING = {"loss_min": 3.9, "loss_max": 4.3, "grad_norm": 0.8, "grad_norm_max": 1.5, "clipped": 0.25}
TRAINING |= {"learning_rate": 1e-3, "tokens_per_second": 1234.5, "mfu": 0.321}


def line(step: int, **figures) -> str:
    return json.dumps({"step": step, "tokens": 100 * step, "elapsed_seconds": 2.0 * step, **figures}) + "\n"


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "my <b>run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(
        "model: demo\ncorpus: <script>alert(1)</script>\nprecision: fp32\ntokens_per_step: 100\nmax_grad_norm: 1.0\n"
        "max_steps: -1\n"
    )
    record = {"data": {}, "hardware": {"device": "Abacus & Co", "count": 2, "system": "Linux x86_64"}}
    record["planned"] = {"parameters": 1_500_000, "steps": 40, "tokens": 4000}
    (folder / "run.json").write_text(json.dumps(record))
    evaluation = line(0, eval_loss=5.5, eval_bits_per_byte=2.25)
    (folder / "metrics.jsonl").write_text(evaluation + line(5, loss=4.5, **TRAINING) + line(10, loss=4.125, **TRAINING))
    (folder / "checkpoint-8").mkdir()
    (folder / "checkpoint-10").mkdir()
    return folder


@pytest.fixture
def address(run):
    server = serve(run, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def get(address: str, **headers) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
        return answer.read()


def tiles(page: str) -> dict[str, tuple[str, str]]:
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)<small>(.*?)</small>", page)
    return {name: (value, note) for name, value, note in found}


def test_the_page_says_how_the_run_is_doing(address):
    page = get(address).decode()
    assert tiles(page) == {
        "step": ("10", "of 40"),
        "tokens": ("1 k", "of 4 k"),
        "time left": ("1 min 0 s", "20 s so far"),  # 30 steps of 2 seconds
        "last checkpoint": ("10", "checkpoint-10"),
        "training loss": ("4.1250", "nats per token"),
        "validation loss": ("5.5000", "step 0, 2.2500 bits per byte"),
        "tokens per second": ("1,234", ""),
        "MFU": ("32.1%", "of the measured peak"),
    }
    assert '<span class="state running">running</span>' in page
    assert "width: 25.00%" in page
    assert "model demo, 1.5 M parameters" in page
    assert "Abacus &amp; Co (2), Linux x86_64" in page


def test_the_page_escapes_text_and_needs_nothing_from_elsewhere(address):
    page = get(address).decode()
    assert "<h1>my &lt;b&gt;run</h1>" in page
    assert "corpus &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script>") == 1
    assert not re.search(r"(src|href)=\"(?!/|data:,)|https?://|@import|url\(", page)


def test_page_and_charts_change_with_the_metrics(address, run):
    sources = re.findall(r'<img src="([^"]+)"', get(address).decode())
    assert [source.split("?")[0] for source in sources] == [f"/{name}" for name in CHARTS]
    before = get(address + sources[0])
    assert before.startswith(b"\x89PNG")
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(line(15, loss=3.0, **TRAINING) + '{"step": 20, "lo')  # the last line is being written
    page = get(address).decode()
    assert tiles(page)["step"][0] == "15"
    assert tiles(page)["training loss"][0] == "3.0000"
    assert sources[0] not in page
    assert get(address + sources[0]) != before


def test_a_resumed_run_that_lost_lines_and_one_that_has_none_are_shown(address, run):
    (run / "metrics.jsonl").write_text(line(0, eval_loss=5.5, eval_bits_per_byte=2.25))
    assert tiles(get(address).decode())["step"] == ("0", "of 40")
    (run / "metrics.jsonl").unlink()
    page = get(address).decode()
    assert '<span class="state starting">' in page
    assert tiles(page)["time left"][0] == "unknown"
    assert get(f"{address}/loss.png").startswith(b"\x89PNG")


def test_a_finished_run_is_called_finished(address, run):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"result": {"peak_flops": 3.5e11, "mfu": 0.3}}))
    assert "finished" not in tiles(get(address).decode())  # its model has not got its name yet
    assert '<span class="state running">' in get(address).decode()
    (run / "model").mkdir()
    page = get(address).decode()
    assert '<span class="state finished">finished</span>' in page
    assert tiles(page)["MFU"][1] == "of 350 GFLOP/s, measured"


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/run.json",
        "/recipe.yaml",
        "/loss.png/../run.json",
    ],
)
def test_files_are_not_served(address, path):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (404, b"no such page\n")
    connection.close()


def test_other_names_for_this_machine_are_refused(address):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(address, Host="evil.example")
    assert get(address, Host="localhost:1")


def test_records_that_break_while_watched_are_reported(address, run):
    (run / "run.json").write_text("{")
    with pytest.raises(urllib.error.HTTPError, match="503") as error:
        get(address)
    assert b"cannot be read" in error.value.read()


def test_the_command_prints_its_address_and_ends_on_ctrl_c(run):
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "watch", str(run), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores SIGINT, and would hand that down to here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        printed = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", printed)[0]
        assert b"refreshes every" in get(address)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.endswith("interrupted\n")
    assert "Traceback" not in errors


def test_what_cannot_be_watched_gets_one_line(run, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        shutil.copytree(run, tmp_path / "broken")
        (tmp_path / "broken" / "recipe.yaml").write_text("- a list")
        for arguments, message in (
            ([str(tmp_path)], f"{tmp_path} is no run folder: it has no recipe.yaml"),
            ([str(tmp_path / "absent")], "is no run folder"),
            ([str(tmp_path / "broken")], "cannot be read: it holds no settings"),
            ([str(run), "--port", port], f"port {port} cannot be had (Address already in use): choose another"),
            ([str(run), "--port", "70000"], "port is 70000, but must be between 0 and 65535"),
        ):
            assert main(["watch", *arguments]) == 2
            (error,) = capsys.readouterr().err.splitlines()
            assert error.startswith("error: ")
            assert message in error


def test_looking_at_a_run_loads_nothing_that_trains():
    program = "import sys, training.view.server; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_numbers_are_said_for_people():
    assert [count(number) for number in (950, 983_040, 3_260_190_720, 7.9e14)] == ["950 ", "983 k", "3.26 G", "790 T"]
    assert [duration(s) for s in (0.4, 59.6, 3661, 93_784)] == ["0 s", "1 min 0 s", "1 h 1 min", "1 d 2 h"]
