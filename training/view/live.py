"""Charts that are redrawn while a run is going on."""

import sys
import time
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .charts import draw_charts

SECONDS_BETWEEN_DRAWINGS = 20  # drawing takes half a second, in which nothing is trained


class LiveCharts(TrainerCallback):
    """Redraws a run's charts after evaluations, but not more often than `SECONDS_BETWEEN_DRAWINGS`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.has_warned = False
        self._drawn_at = time.monotonic()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        # The last evaluations are drawn once the run has ended.
        is_due = time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_DRAWINGS
        if state.is_world_process_zero and is_due and 0 < state.global_step < state.max_steps:
            self.redraw()
            self._drawn_at = time.monotonic()

    def redraw(self) -> None:
        """Draws, or warns the first time that it cannot: no chart is worth a run."""
        try:
            draw_charts(self.folder)
        except Exception as error:  # whatever it is: a full disk, a font, a broken matplotlib
            if not self.has_warned:
                print(f"warning: the charts cannot be drawn: {' '.join(str(error).split())}", file=sys.stderr)
            self.has_warned = True
