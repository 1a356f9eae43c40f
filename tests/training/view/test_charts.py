"""The charts of a run."""

import json

import pytest
from matplotlib.figure import Figure

from training.view import charts
from training.view.charts import CHARTS, draw_chart, draw_charts

LINES = [
    {"step": 0, "tokens": 0, "elapsed_seconds": 0.5, "eval_loss": 5.0, "eval_bits_per_byte": 2.0},
    *(
        {"step": step, "tokens": 8 * step, "elapsed_seconds": 1.0 * step, "loss": 5.0 - step, "loss_min": 4.5 - step}
        | {"loss_max": 6.0 - step, "grad_norm": 0.8, "grad_norm_max": 1.5, "clipped": 0.25, "learning_rate": 1e-3}
        | {"tokens_per_second": 100.0, "mfu": 0.3}
        for step in (1, 2)
    ),
]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, as they are saved."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: [figures.append(self), save(self, *args)])
    return figures


def labels(figure: Figure) -> set[str]:
    return {label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]}


def test_loss_shows_the_band_between_points_and_validation(drawn):
    assert draw_chart("loss.png", LINES, 1.0).startswith(b"\x89PNG")
    assert labels(drawn[0]) == {"training, lowest to highest", "training, mean", "validation"}
    band = drawn[0].axes[0].collections[0].get_paths()[0].vertices
    assert (band[:, 0].min(), band[:, 0].max(), band[:, 1].min(), band[:, 1].max()) == (8, 16, 2.5, 5)


def test_gradient_norm_shows_where_it_is_clipped_and_how_often(drawn):
    draw_chart("gradient_norm.png", LINES, 0.7)
    assert {"gradient norm", "highest since the last point", "clipped to 0.7", "steps clipped"} == labels(drawn[0])
    (line,) = [line for line in drawn[0].axes[0].lines if line.get_label() == "clipped to 0.7"]
    assert set(line.get_ydata()) == {0.7}
    draw_chart("gradient_norm.png", LINES, 0.0)
    assert "clipped to 0" not in labels(drawn[1])


def test_speed_says_the_last_mfu(drawn):
    draw_chart("speed.png", LINES, 1.0)
    assert labels(drawn[0]) == {"tokens per second; MFU 30.0% at the last point"}


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("lines", [[], LINES[:1], LINES[:2]], ids=["nothing", "an evaluation", "one point"])
def test_every_chart_can_be_drawn_from_the_first_moment(name, lines):
    assert draw_chart(name, lines, 1.0).startswith(b"\x89PNG")


def test_the_clip_line_comes_from_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (tmp_path / "recipe.yaml").write_text("max_grad_norm: 0.25\n")
    seen = set()
    monkeypatch.setattr(charts, "draw_chart", lambda name, lines, norm: seen.add((len(lines), norm)) or b"png")
    assert {path.name for path in draw_charts(tmp_path)} == set(CHARTS)
    assert seen == {(3, 0.25)}
