"""The charts of a run, drawn from its metrics.jsonl."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .monitoring import read_metrics


def draw_charts(folder: Path) -> list[Path]:
    """Writes loss.png, gradient_norm.png and learning_rate.png into a run folder and returns their paths."""
    metrics = read_metrics(folder)

    def curve(axes: Axes, name: str, label: str) -> None:
        points = [(line["tokens"], line[name]) for line in metrics if name in line]
        axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 50 else None) if points else None

    charts = []
    for file, title, curves in (
        ("loss.png", "Loss, nats per token", (("loss", "training"), ("eval_loss", "validation"))),
        ("gradient_norm.png", "Gradient norm before clipping", (("grad_norm", "gradient norm"),)),
        ("learning_rate.png", "Learning rate", (("learning_rate", "learning rate"),)),
    ):
        # Figure and not pyplot: no window system, no global state.
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for name, label in curves:
            curve(axes, name, label)
        axes.set(title=title, xlabel="tokens")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
        figure.savefig(folder / file, dpi=120)
        charts.append(folder / file)
    return charts
