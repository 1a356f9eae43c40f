"""What a run was trained on, compared with what it is to go on with; what may differ is allowed by groups."""

from collections.abc import Collection, Mapping
from typing import Any

from configuration.recipe import Recipe

from ..errors import InputError
from ..files import sha256_of_values

# Group -> the recipe's fields in it, in every program; a program adds its own. Any other field is in the group `other`.
COMMON_GROUPS = {
    "data": ("seed", "data_seed"),
    "batch": ("per_device_train_batch_size", "gradient_accumulation_steps"),  # the latter may follow from others
    "horizon": (
        "max_steps",
        "num_train_epochs",
        "learning_rate",
        "muon_learning_rate",
        "schedule",
        "warmup_steps",
        "decay_steps",
        "learning_rate_floor",
    ),
}
OTHER = "other"
# What a run shows, measures and keeps, and who does the work: the weights do not depend on it, so a run goes on with
# what it is told now.
HARMLESS = frozenset(
    (
        *("data_dir", "tokenize_threads"),  # the data are known by their hash
        *("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory"),
        *("dataloader_multiprocessing_context", "dataloader_prefetch_factor", "ddp_timeout"),
        *("disable_tqdm", "log_level", "log_level_replica", "log_on_each_node"),
        *("logging_first_step", "logging_steps", "logging_strategy"),
        *("project", "report_to", "run_name", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id"),
        *("eval_delay", "eval_on_start", "eval_steps", "eval_strategy"),
        *("save_steps", "save_strategy", "save_total_limit"),
    )
)
# No run goes on with an optimizer that the saved state does not fit: this group cannot be allowed.
OPTIMIZER = "optimizer"
OPTIMIZER_FIELDS = ("optim", "weight_decay_on")
# Nor from other weights than it began with.
PARENT = "parent"


class Groups:
    """The groups of a program's settings.

    Args:
        own: group -> fields, beside `COMMON_GROUPS`.
        fixed: the same for groups that cannot be allowed to change, beside the optimizer's.
    """

    def __init__(self, own: Mapping[str, tuple[str, ...]], fixed: Mapping[str, tuple[str, ...]]):
        names = list(dict.fromkeys(["data", *own, *COMMON_GROUPS]))
        self.changeable = {name: (*own.get(name, ()), *COMMON_GROUPS.get(name, ())) for name in names}
        self.fixed = {**fixed, OPTIMIZER: OPTIMIZER_FIELDS, PARENT: ()}
        self.allowable = (*self.changeable, OTHER)

    def group_of(self, name: str, then: Any, now: Any) -> str:
        if name == "muon_learning_rate" and None in (then, now):  # not only its rate: whether there is a Muon
            return OPTIMIZER
        groups = {**self.changeable, **self.fixed}
        return next((group for group, names in groups.items() if name in names), OTHER)

    def fingerprint(
        self,
        recipe: Recipe,
        hashes: Mapping[str, str],
        processes: int,
        micro_batch: int,
        parent: Mapping[str, Any] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """What a checkpoint depends on beside the model's own configuration, by groups.

        Args:
            hashes: group -> the sha256 of what belongs to it beside the recipe, such as the text.
            processes: devices that share the batch.
            micro_batch: examples that each takes at a time.
            parent: what the run began with, if not with random weights.
        """
        values = recipe.as_dict()
        # Not what the corpus and the tokenizer are called: hashes say what they are, and prepared data may stand in for
        # the one, a parent that has been moved for the other.
        groups = {
            group: {name: values[name] for name in names if name in values and name not in ("corpus", "tokenizer")}
            for group, names in self.changeable.items()
        }
        for group, sha256 in hashes.items():
            groups[group][f"{group}_sha256"] = sha256
        groups["batch"] |= {"processes": processes, "micro_batch": micro_batch}
        groups[OPTIMIZER] = {name: values[name] for name in OPTIMIZER_FIELDS}
        groups[OPTIMIZER]["muon"] = values["muon_learning_rate"] is not None
        if parent is not None:  # absent, and not empty: checkpoints of random weights stay as they were
            groups[PARENT] = {"weights_sha256": sha256_of_values(sorted(parent["weights"].values()))}
        return groups

    def allowed(self, named: str) -> list[str]:
        """The groups that `--allow_changed` names. Raises InputError where a name is none of `allowable`."""
        allowed = [group for group in named.split(",") if group]
        unknown = set(allowed) - set(self.allowable)
        if unknown:
            raise InputError(
                f"--allow_changed names {', '.join(sorted(unknown))}, but the groups are {', '.join(self.allowable)}"
            )
        return allowed

    def refuse_changes(self, changes: Mapping[str, tuple[str, Any, Any]], allowed: Collection[str], what: str) -> None:
        """Raises where something has changed that was not allowed to.

        Args:
            changes: name -> its group, its value then and now.
            allowed: groups that may change.
            what: that which was made with the old values, for the message.

        Raises:
            InputError: listing every change, and the option that allows them.
        """
        refused = {name: change for name, change in changes.items() if change[0] not in allowed}
        if not refused:
            return
        lines = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (_, old, new) in refused.items())
        groups = sorted({group for group, _, _ in refused.values()})
        remedy = "choose another output_dir, or delete the folder"
        if not self.fixed.keys() & set(groups):
            remedy += f"; to go on all the same: --allow_changed {','.join(sorted({*groups, *allowed}))}"
        raise InputError(f"{what} belongs to a run with another {' and '.join(groups)} ({lines}): {remedy}")
