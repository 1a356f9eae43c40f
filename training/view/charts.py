"""The charts of a run, drawn from its metrics.jsonl: loss, gradient norm, learning rate, speed."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from ..record import RECIPE, read_metrics, read_recipe
from .unit import TOKENS, UNITS, unit_of

TRAINING, VALIDATION, OTHER, FAINT = "#2563a8", "#c8402f", "#6b7280", "#b9cde4"
Metrics = list[dict[str, Any]]


def _points(metrics: Metrics, *names: str) -> list[list[float]]:
    """Columns of the unit and the named figures of the lines that hold them all; empty columns where none does."""
    columns = (unit_of(metrics), *names)
    rows = [[line[name] for name in columns] for line in metrics if all(name in line for name in columns)]
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]


def _curve(axes: Axes, metrics: Metrics, name: str, label: str, color: str, **style) -> None:
    done, values = _points(metrics, name)
    if done:
        axes.plot(done, values, label=label, color=color, **({"marker": "."} if len(done) < 50 else {}) | style)


def _loss(axes: Axes, metrics: Metrics, max_grad_norm: float) -> None:
    done, lowest, highest = _points(metrics, "loss_min", "loss_max")
    if done:
        axes.fill_between(done, lowest, highest, color=FAINT, alpha=0.7, lw=0, label="training, lowest to highest")
    _curve(axes, metrics, "loss", "training, mean", TRAINING)
    _curve(axes, metrics, "eval_loss", "validation", VALIDATION, marker="o", markersize=4)
    axes.set_ylabel("nats per token" if unit_of(metrics) == TOKENS else "loss")


def _gradient_norm(axes: Axes, metrics: Metrics, max_grad_norm: float) -> None:
    _curve(axes, metrics, "grad_norm_max", "highest since the last point", FAINT, marker=None)
    _curve(axes, metrics, "grad_norm", "gradient norm", TRAINING)
    if max_grad_norm > 0:
        axes.axhline(
            max_grad_norm, color=VALIDATION, linestyle="--", linewidth=1, label=f"clipped to {max_grad_norm:g}"
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("before clipping")
    done, clipped = _points(metrics, "clipped")
    if done:
        right = axes.twinx()
        right.fill_between(done, clipped, step="pre", color=OTHER, alpha=0.15, lw=0, label="steps clipped")
        right.set(ylim=(0, 1), ylabel="steps clipped (grey)")
        right.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_zorder(right.get_zorder() + 1)  # the curves over the grey, not under it
        axes.patch.set_visible(False)


def _learning_rate(axes: Axes, metrics: Metrics, max_grad_norm: float) -> None:
    _curve(axes, metrics, "learning_rate", "learning rate", TRAINING)
    axes.set_ylim(bottom=0)


def _speed(axes: Axes, metrics: Metrics, max_grad_norm: float) -> None:
    utilization = _points(metrics, "mfu")[1]
    unit = unit_of(metrics)
    label = f"{unit} per second" + (f"; MFU {utilization[-1]:.1%} at the last point" if utilization else "")
    _curve(axes, metrics, f"{unit}_per_second", label, TRAINING)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter())


# File -> title, how it is drawn, and the figures of which it needs one.
CHARTS: dict[str, tuple[str, Callable[[Axes, Metrics, float], None], set[str]]] = {
    "loss.png": ("Loss", _loss, {"loss", "eval_loss"}),
    "gradient_norm.png": ("Gradient norm", _gradient_norm, {"grad_norm"}),
    "learning_rate.png": ("Learning rate", _learning_rate, {"learning_rate"}),
    "speed.png": ("Speed", _speed, {f"{unit}_per_second" for unit in UNITS}),
}


def charts_of(metrics: Metrics, unit: str) -> list[str]:
    """Which of `CHARTS` a run has: pretraining all, from the first moment; another program those it has figures for."""
    held = set().union(*metrics)
    return [name for name, (*_, figures) in CHARTS.items() if unit == TOKENS or held & figures]


def draw_chart(name: str, metrics: Metrics, max_grad_norm: float) -> bytes:
    """One of `CHARTS` as a PNG, over what was trained on; `max_grad_norm` is 0 where gradients are not clipped."""
    title, draw, _ = CHARTS[name]
    # Figure and not pyplot: no window system, no global state.
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    draw(axes, metrics, max_grad_norm)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel(unit_of(metrics))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.grid(alpha=0.3)
    for each in figure.axes:
        each.spines["top"].set_visible(False)
        each.spines["right"].set_visible(len(figure.axes) > 1)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, dpi=150)
    return image.getvalue()


def max_grad_norm_of(folder: Path) -> float:
    """The norm that a run clips its gradients to, by its recipe.yaml; 0: it does not."""
    recipe = read_recipe(folder) if (folder / RECIPE).exists() else {}
    return recipe.get("max_grad_norm") or 0.0


def draw_charts(folder: Path) -> list[Path]:
    """Writes all charts of a run into its folder and returns their paths."""
    metrics, max_grad_norm = read_metrics(folder), max_grad_norm_of(folder)
    files = [folder / name for name in charts_of(metrics, unit_of(metrics))]
    for file in files:
        file.write_bytes(draw_chart(file.name, metrics, max_grad_norm))
    return files
