"""The page and the charts of a program that counts examples, and of which little else is known."""

import json
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from training.view.charts import draw_chart, draw_charts
from training.view.server import WatchedRun, serve
from training.view.unit import unit_of


def line(step: int, **figures) -> dict:
    return {"step": step, "examples": 8 * step, "elapsed_seconds": 2.0 * step, **figures}


LINES = [
    line(0, eval_loss=0.7, eval_accuracy=0.5, eval_examples=100, eval_runtime=0.5),
    line(5, loss=0.6, examples_per_second=3.75),
    line(10, loss=0.5, examples_per_second=4.25),
    line(10, eval_loss=0.4, eval_accuracy=0.875, eval_examples=100, eval_runtime=0.5),
]


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "spam"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("base: runs/demo/model\nlearning_rate: 1.0e-4\nmax_steps: null\n")
    record = {"program": "finetune", "data": {"files": 1}}
    record["planned"] = {"parameters": 1_500_000, "steps": 40, "unit": "examples", "examples": 320}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in LINES))
    return folder


def said(page: str) -> str:
    """What the page shows to a person, without its style and script."""
    return re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)


def test_its_page_shows_what_there_is_and_nothing_else(run):
    page = WatchedRun(run).page()
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)<small>(.*?)</small>", page) == [
        ("step", "10", "of 40"),
        ("examples", "80 ", "of 320 "),
        ("time left", "1 min 0 s", "20 s so far"),
        ("last checkpoint", "none yet", ""),
        ("training loss", "0.5000", ""),
        ("validation loss", "0.4000", "step 10"),
        ("validation accuracy", "0.8750", "step 10"),
        ("examples per second", "4.2", ""),
    ]
    assert '<p class="about">finetune · 1.5 M parameters</p>' in page
    assert re.findall(r'<img src="/(.*?)\?', page) == ["loss.png", "speed.png"]
    assert not re.search("token|None|MFU|nats|bits", said(page))


def test_its_first_page_promises_nothing(run):
    (run / "metrics.jsonl").unlink()
    page = WatchedRun(run).page()
    assert re.findall("<dt>(.*?)</dt>", page) == ["step", "examples", "time left", "last checkpoint"]
    assert "<img" not in page
    assert not re.search("token|None|MFU", said(page))
    serve(run, 0).server_close()


def test_a_figure_that_comes_has_its_tile_and_its_chart(run):
    with (run / "metrics.jsonl").open("a") as stream:
        print(json.dumps(line(15, loss=0.3, mfu=0.25, grad_norm=0.5, learning_rate=1e-4)), file=stream)
    page = WatchedRun(run).page()
    assert "<dt>MFU</dt><dd>25.0%" in page
    assert re.findall(r'<img src="/(.*?)\?', page) == [
        "loss.png",
        "gradient_norm.png",
        "learning_rate.png",
        "speed.png",
    ]


def test_its_charts_count_examples(run, monkeypatch):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: [drawn.append(self), save(self, *args)])
    assert [path.name for path in draw_charts(run)] == ["loss.png", "speed.png"]
    assert WatchedRun(run).chart("loss.png").startswith(b"\x89PNG")
    loss, speed, _ = (figure.axes[0] for figure in drawn)
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("examples", "loss")
    assert [list(curve.get_xdata()) for curve in loss.lines] == [[40, 80], [0, 80]]
    assert (speed.get_xlabel(), speed.get_legend_handles_labels()[1]) == ("examples", ["examples per second"])
    tokens = [{"step": 1, "tokens": 8, "loss": 1.0}]
    draw_chart("loss.png", tokens, 1.0)
    assert (drawn[-1].axes[0].get_xlabel(), drawn[-1].axes[0].get_ylabel()) == ("tokens", "nats per token")


def test_the_unit_is_that_of_the_lines_or_else_the_planned_one():
    assert unit_of(LINES) == unit_of([], {"unit": "examples"}) == "examples"
    assert unit_of([{"step": 1, "tokens": 8}]) == unit_of([], {"steps": 4}) == unit_of([]) == "tokens"
