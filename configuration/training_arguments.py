"""What a recipe may set of the library's `TrainingArguments`: which fields it cannot, and the ranges of others."""

from typing import Any

_DERIVED = "is derived from the device: set `precision` instead"
_FIXED = "is fixed by the program"
_SCHEDULE = "spends step 0 at a rate of 0: set `schedule`, warmup_steps, decay_steps and learning_rate_floor instead"
_PUBLISHING = "belongs to publishing, which is hub_upload.py's work"
# Fields that no recipe can set, because setting them would do nothing or do harm.
REFUSED = {
    **dict.fromkeys(("bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval", "use_cpu"), _DERIVED),
    "auto_find_batch_size": "would change the batch in mid-run: set `per_device_train_batch_size`",
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler_kwargs"), _SCHEDULE),
    **dict.fromkeys(
        ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        "is not needed: the checkpoint with the lowest validation loss is always kept",
    ),
    "save_only_model": "would leave checkpoints that a run cannot go on from",
    **dict.fromkeys(
        (
            "batch_eval_metrics",
            "dataloader_drop_last",
            "do_eval",
            "do_predict",
            "do_train",
            "eval_accumulation_steps",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "ignore_data_skip",
            "include_for_metrics",
            "include_num_input_tokens_seen",
            "label_names",
            "length_column_name",
            "liger_kernel_config",
            "local_rank",
            "logging_nan_inf_filter",
            "parallelism_config",
            "prediction_loss_only",
            "remove_unused_columns",
            "resume_from_checkpoint",
            "train_sampling_strategy",
            "use_liger_kernel",
        ),
        _FIXED,
    ),
    **dict.fromkeys(
        (
            "hub_always_push",
            "hub_model_id",
            "hub_private_repo",
            "hub_revision",
            "hub_strategy",
            "hub_token",
            "push_to_hub",
        ),
        _PUBLISHING,
    ),
}
# Smallest and largest value of the library's fields, which it does not check, or too late.
_BELOW_ONE, _ABOVE_ZERO, _MANY = 1 - 1e-9, 1e-12, 2**40
RANGES = {
    "adam_beta1": (0, _BELOW_ONE),
    "adam_beta2": (0, _BELOW_ONE),
    "adam_epsilon": (1e-30, 1),  # 0 divided by 0 where a token has not occurred yet
    "data_seed": (0, 2**32 - 1),
    "dataloader_num_workers": (0, 1024),
    "dataloader_prefetch_factor": (1, 2**20),
    "ddp_bucket_cap_mb": (1, 2**20),
    "ddp_timeout": (1, 2**31 - 1),
    "eval_delay": (0, _MANY),
    "eval_steps": (_ABOVE_ZERO, _MANY),
    "label_smoothing_factor": (0, 1),
    "learning_rate": (_ABOVE_ZERO, 1e6),
    "logging_steps": (_ABOVE_ZERO, _MANY),
    "max_grad_norm": (0, 1e12),  # 0: no clipping
    "max_steps": (1, _MANY),
    "neftune_noise_alpha": (0, 1e6),
    "num_train_epochs": (1e-6, 1e6),
    "per_device_eval_batch_size": (1, 2**20),
    "save_steps": (_ABOVE_ZERO, _MANY),
    "save_total_limit": (1, 2**20),
    "seed": (0, 2**32 - 1),
    "torch_empty_cache_steps": (1, _MANY),
    "warmup_steps": (0, _MANY),
    "weight_decay": (0, 1e6),
}
# Below 1 they are shares of the run.
STEPS_OR_SHARES = ("eval_steps", "logging_steps", "save_steps", "warmup_steps")
# Strategy -> the number that counts with it.
_STRATEGIES = {"eval_strategy": "eval_steps", "logging_strategy": "logging_steps", "save_strategy": "save_steps"}


def problems_of_strategies(values: dict[str, Any]) -> list[str]:
    """What is wrong with when a run measures, logs and saves.

    A run is one pass over its sampler, however often that visits the text, so the Trainer sees no epochs.
    """
    problems = [
        f"{strategy} is epoch, but a run counts in steps: set it to steps, and {steps}"
        for strategy, steps in _STRATEGIES.items()
        if values.get(strategy) == "epoch"
    ]
    if values.get("save_strategy") == "best":
        problems.append(
            "save_strategy is best, but a run must be able to go on from where it stopped: set it to steps, and "
            "save_steps; of the saved checkpoints, the one with the lowest validation loss is always kept"
        )
    return problems
