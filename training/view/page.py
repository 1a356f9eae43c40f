"""The page of a run: settings, record and metrics in, HTML out."""

import html
from dataclasses import dataclass
from typing import Any

from ..record import CHECKPOINT, program_of
from .unit import TOKENS, UNITS

REFRESH_SECONDS = 5
QUIET_SECONDS = 60  # without a new line, a run is no longer called running; slow runs get five times their pace
RECENT_LINES = 20  # training lines from which the pace is taken

Metrics = list[dict[str, Any]]

STYLE = """
body { margin: 0; background: #f6f7f9; color: #1d2530; font: 16px/1.45 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px; }
header { display: flex; align-items: baseline; gap: 14px; flex-wrap: wrap; }
h1 { font-size: 26px; margin: 0; }
.state { font-size: 14px; font-weight: 600; padding: 2px 12px; border-radius: 99px; }
.state { background: #e3ebf5; color: #1e4e85; }
.state.finished { background: #dff1e4; color: #1c6a38; }
.state.quiet { background: #fbeadb; color: #8a4a10; }
.about { color: #556070; margin: 4px 0 18px; font-size: 14px; }
.bar { height: 10px; border-radius: 5px; background: #dfe4ea; overflow: hidden; }
.bar div { height: 100%; background: #2563a8; }
dl { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 18px 0; }
dl div, img { background: #fff; border: 1px solid #e2e6eb; border-radius: 8px; box-sizing: border-box; }
dl div { padding: 10px 14px; }
dt { color: #556070; font-size: 13px; }
dd { margin: 0; font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: 13px; font-weight: 400; color: #556070; min-height: 1.45em; }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; }
img { width: 100%; aspect-ratio: 16 / 9; padding: 6px; }
footer { color: #556070; font-size: 13px; margin-top: 14px; }
@media (max-width: 760px) { dl { grid-template-columns: 1fr 1fr; } .charts { grid-template-columns: 1fr; } }
"""
# Replaces the content and keeps the place that was scrolled to; images are exchanged once the new ones are there.
SCRIPT = """
setInterval(async () => {
  const note = document.querySelector("footer");
  try {
    const answer = await fetch("/", {cache: "no-store"});
    if (!answer.ok) throw new Error(await answer.text());
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    await Promise.all([...next.images].map(image => {
      const ready = new Image();
      ready.src = image.getAttribute("src");
      return ready.decode();
    }));
    document.querySelector("main").replaceWith(next.querySelector("main"));
    document.title = next.title;
  } catch (error) {
    note.textContent = "not refreshed: " + error.message;
  }
}, %d);
"""


def page_of(
    *,
    name: str,
    recipe: dict[str, Any],
    record: dict[str, Any],
    metrics: Metrics,
    unit: str,
    checkpoint: str | None,
    charts: dict[str, str],
    seconds_since_change: float | None,
) -> str:
    """The page as HTML.

    Args:
        name: of the run.
        recipe: recipe.yaml's settings.
        record: run.json; its `result` is `None` as long as the run has not ended.
        metrics: the lines of metrics.jsonl, oldest first.
        unit: that they count.
        checkpoint: name of the newest one.
        charts: file name -> address.
        seconds_since_change: how long ago metrics.jsonl was written; `None`: never.
    """
    progress = progress_of(metrics, recipe, record.get("planned", {}))
    state, label = state_of(record.get("result"), progress, seconds_since_change)
    text = html.escape
    tiles = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for name, value, note in [
            *progress_tiles(progress, unit, record, checkpoint),
            *figure_tiles(metrics, unit, record.get("result")),
        ]
    )
    images = "".join(
        f'<img src="{text(address)}" alt="{text(file.removesuffix(".png").replace("_", " "))}">'
        for file, address in charts.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{progress.done:.0%} {text(name)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header><h1>{text(name)}</h1><span class="state {state}">{text(label)}</span></header>
<p class="about">{text(about(recipe, record, unit))}</p>
<div class="bar"><div style="width: {progress.done:.2%}"></div></div>
<dl>{tiles}</dl>
<div class="charts">{images}</div>
<footer>refreshes every {REFRESH_SECONDS} seconds</footer>
</main>
<script>{SCRIPT % (1000 * REFRESH_SECONDS)}</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    last: dict[str, Any]  # the newest line
    steps: int  # that the run has; 0: not known
    pace: float | None  # seconds a step
    line_seconds: float  # from one training line to the next

    @property
    def done(self) -> float:
        return min(1.0, self.last["step"] / self.steps) if self.steps else 0.0


def progress_of(metrics: Metrics, recipe: dict[str, Any], planned: dict[str, Any]) -> Progress:
    last = metrics[-1] if metrics else {"step": 0, "elapsed_seconds": 0.0}
    steps = planned.get("steps") or max(recipe.get("max_steps") or 0, last["step"])
    # The evaluations, which cost time as well, lie between the lines.
    recent = [line for line in metrics if "loss" in line][-RECENT_LINES:]
    covered = last["step"] - recent[0]["step"] if recent else 0
    pace = (last["elapsed_seconds"] - recent[0]["elapsed_seconds"]) / covered if covered else None
    line_seconds = pace * covered / (len(recent) - 1) if pace and len(recent) > 1 else 0.0
    return Progress(last, steps, pace, line_seconds)


def state_of(result: dict[str, Any] | None, progress: Progress, seconds_since_change: float | None) -> tuple[str, str]:
    """The class of the state's style, and its words."""
    if result:
        return "finished", "finished"
    if seconds_since_change is None:
        return "starting", "starting"
    if seconds_since_change > max(QUIET_SECONDS, 5 * progress.line_seconds):
        return "quiet", f"no news for {duration(seconds_since_change)}"
    return "running", "running"


def about(recipe: dict[str, Any], record: dict[str, Any], unit: str) -> str:
    """What runs on what; what recipe and record do not tell is left out."""
    program, planned, hardware = program_of(record), record.get("planned", {}), record.get("hardware", {})
    model = [f"model {recipe['model']}"] if recipe.get("model") else []
    model += [f"{count(planned['parameters'])} parameters"] if "parameters" in planned else []
    device = [f"{hardware['device']} ({hardware['count']})", hardware["system"]] if hardware else []
    per_step = recipe.get(f"{unit}_per_step")
    corpora = recipe.get("corpus") or []
    parts = [
        program if program != "pretrain" else "",
        ", ".join(model),
        f"corpus {', '.join([corpora] if isinstance(corpora, str) else corpora)}" if corpora else "",
        f"{per_step:,} {unit} per step" if per_step else "",
        recipe.get("precision") or "",
        ", ".join(device),
    ]
    return " · ".join(part for part in parts if part)


Tile = tuple[str, str, str]  # name, value, a note below


def progress_tiles(progress: Progress, unit: str, record: dict[str, Any], checkpoint: str | None) -> list[Tile]:
    planned, last, left = record.get("planned", {}), progress.last, "unknown"
    if record.get("result"):
        left = "none"
    elif progress.pace is not None:
        left = duration(progress.pace * (progress.steps - last["step"]))
    return [
        ("step", f"{last['step']:,}", f"of {progress.steps:,}" if progress.steps else ""),
        (unit, count(last.get(unit, 0)), f"of {count(planned[unit])}" if unit in planned else ""),
        ("time left", left, f"{duration(last['elapsed_seconds'])} so far"),
        ("last checkpoint", checkpoint.removeprefix(CHECKPOINT) if checkpoint else "none yet", checkpoint or ""),
    ]


def figure_tiles(metrics: Metrics, unit: str, result: dict[str, Any] | None) -> list[Tile]:
    """Which figures pretraining has is known before it has them; another program's get a tile once they are there."""
    latest = next((line for line in reversed(metrics) if "loss" in line), {})
    evaluated = next((line for line in reversed(metrics) if any(name.startswith("eval_") for name in line)), {})
    rate = f"{unit}_per_second"
    tiles = {
        "loss": ("training loss", figure(latest, "loss", ".4f"), "nats per token" if unit == TOKENS else ""),
        "eval_loss": ("validation loss", figure(evaluated, "eval_loss", ".4f"), evaluated_note(evaluated)),
    }
    for name in further_evaluations(evaluated):
        label = f"validation {name.removeprefix('eval_').replace('_', ' ')}"
        tiles[name] = label, figure(evaluated, name, ".4f"), f"step {evaluated['step']:,}"
    tiles[rate] = f"{unit} per second", figure(latest, rate, ",.0f" if unit == TOKENS else ",.1f"), ""
    tiles["mfu"] = "MFU", figure(latest, "mfu", ".1%"), peak_note(result)
    return [tile for name, tile in tiles.items() if unit == TOKENS or name in latest | evaluated]


def further_evaluations(line: dict[str, Any]) -> list[str]:
    """Names of an evaluation's figures that say something of the model beside its loss."""
    elsewhere = ("eval_loss", "eval_bits_per_byte", *(f"eval_{unit}" for unit in UNITS))
    of_time = ("_runtime", "_time", "_per_second")
    return [n for n in line if n.startswith("eval_") and n not in elsewhere and not n.endswith(of_time)]


def figure(line: dict[str, Any], name: str, form: str) -> str:
    return format(line[name], form) if name in line else "-"


def evaluated_note(line: dict[str, Any]) -> str:
    if not line:
        return "none yet"
    bits = f", {line['eval_bits_per_byte']:.4f} bits per byte" if "eval_bits_per_byte" in line else ""
    return f"step {line['step']:,}{bits}"


def peak_note(result: dict[str, Any] | None) -> str:
    peak = (result or {}).get("peak_flops")
    return f"of {count(peak)}FLOP/s, measured" if peak else "of the measured peak"


def count(number: float) -> str:
    """983040 -> "983 k"; three figures are enough to look at."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f} "


def duration(seconds: float) -> str:
    """93784 -> "1 d 2 h"; the two largest units."""
    seconds = round(seconds)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
