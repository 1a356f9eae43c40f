"""What a run counts its progress in beside steps: tokens, or what another program than pretraining goes through."""

from typing import Any

TOKENS = "tokens"
UNITS = (TOKENS, "examples")


def unit_of(metrics: list[dict[str, Any]], planned: dict[str, Any] | None = None) -> str:
    """The unit that the lines of metrics.jsonl hold, or where there are none yet, the one that the record plans in.

    Args:
        metrics: lines, each with its `step` and with how many of the unit were trained on up to it.
        planned: of run.json. Records that name no unit are older than all units but tokens.
    """
    return next((unit for line in metrics for unit in UNITS if unit in line), (planned or {}).get("unit", TOKENS))
