"""What a recipe may set of the library's `TrainingArguments`: which fields it cannot, and the ranges of others."""

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
RANGES = {
    "data_seed": (0, 2**32 - 1),
    "dataloader_num_workers": (0, 1024),
    "label_smoothing_factor": (0, 1),
    "max_steps": (1, 2**40),
    "num_train_epochs": (1e-6, 1e6),
    "per_device_eval_batch_size": (1, 2**20),
    "seed": (0, 2**32 - 1),
}
# A run is one pass over its sampler, however often that visits the text, so the Trainer sees no epochs.
STEPS_NOT_EPOCHS = ("eval_strategy", "logging_strategy", "save_strategy")
