"""What nanoGPT, the book and the library's GPT-2 call our settings, so that whoever types one of them is told ours."""

_ALL_DROPOUTS = "embedding_dropout, attention_dropout and residual_dropout"
_POSITIONS = "max_position_embeddings"
_MICRO_BATCH = "per_device_train_batch_size, beside tokens_per_step"
_SHARE_OF_PEAK = "learning_rate_floor, as a share of the peak"

# Name -> the setting's own, first of all, and what else there is to know.
OTHER_NAMES = {
    # The model.
    **dict.fromkeys(
        (
            *("block_size", "context_length", "context_size", "ctx_len", "max_length", "max_len", "max_seq_len"),
            *("max_seq_length", "n_ctx", "n_positions", "seq_len", "seq_length", "sequence_length"),
        ),
        _POSITIONS,
    ),
    **dict.fromkeys(("n_embd", "n_embed", "emb_dim", "embedding_dim", "d_model", "hidden_dim", "dim"), "hidden_size"),
    **dict.fromkeys(("n_layer", "n_layers", "num_layers", "depth"), "num_hidden_layers"),
    **dict.fromkeys(("n_head", "n_heads", "num_heads"), "num_attention_heads"),
    **dict.fromkeys(("n_inner", "ffn_dim", "d_ff", "hidden_dim_mlp"), "intermediate_size"),
    **dict.fromkeys(("activation", "activation_function"), "hidden_act"),
    **dict.fromkeys(("dropout", "drop_rate"), _ALL_DROPOUTS),
    "embd_pdrop": "embedding_dropout",
    "attn_pdrop": "attention_dropout",
    "resid_pdrop": "residual_dropout",
    "bias": "qkv_bias, the only biases that a model may lack",
    **dict.fromkeys(("layer_norm_epsilon", "layernorm_eps"), "layer_norm_eps"),
    **dict.fromkeys(("weight_tying", "tie_weights", "tie_embeddings", "tied"), "tie_word_embeddings"),
    **dict.fromkeys(("model_size", "model_name", "model_type", "model_name_or_path"), "model, a named size"),
    # The data.
    **dict.fromkeys(("dataset", "dataset_name", "text_file", "train_file", "data_path"), "corpus"),
    **dict.fromkeys(("tokenizer_name", "tokenizer_path"), "tokenizer"),
    **dict.fromkeys(("tokenize_processes", "num_proc"), "tokenize_threads"),
    "num_workers": "dataloader_num_workers",
    # The step.
    **dict.fromkeys(("batch_size", "micro_batch_size", "per_gpu_train_batch_size", "train_batch_size"), _MICRO_BATCH),
    **dict.fromkeys(("eval_batch_size", "val_batch_size"), "per_device_eval_batch_size"),
    **dict.fromkeys(("total_batch_size", "batch_tokens"), "tokens_per_step"),
    **dict.fromkeys(("lr", "peak_lr", "max_lr", "initial_lr"), "learning_rate"),
    **dict.fromkeys(("min_lr", "lr_min", "final_lr"), _SHARE_OF_PEAK),
    **dict.fromkeys(("decay_lr", "lr_schedule", "lr_scheduler", "lr_decay"), "schedule, which may be constant"),
    **dict.fromkeys(("warmup", "warmup_iters"), "warmup_steps"),
    "warmup_ratio": "warmup_steps, where a number below 1 is a share of the run",
    "lr_decay_iters": "decay_steps, which end with the run",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "betas": "adam_beta1 and adam_beta2",
    **dict.fromkeys(("eps", "adam_eps"), "adam_epsilon"),
    "wd": "weight_decay",
    "optimizer": "optim",
    "muon_lr": "muon_learning_rate",
    **dict.fromkeys(("grad_clip", "clip_grad", "gradient_clipping", "max_norm"), "max_grad_norm"),
    **dict.fromkeys(("dtype", "amp", "use_amp", "mixed_precision"), "precision"),
    "compile": "torch_compile",
    "backend": "ddp_backend",
    # The run.
    **dict.fromkeys(("max_iters", "num_iterations", "iterations", "steps", "num_steps", "total_steps"), "max_steps"),
    **dict.fromkeys(("epochs", "n_epochs", "num_epochs"), "num_train_epochs"),
    **dict.fromkeys(("out_dir", "out", "output", "save_dir", "run_dir"), "output_dir"),
    **dict.fromkeys(
        ("eval_interval", "eval_every", "eval_freq", "val_interval"), "eval_steps, with eval_strategy: steps"
    ),
    "evaluation_strategy": "eval_strategy",
    **dict.fromkeys(("log_interval", "log_every", "log_freq"), "logging_steps"),
    **dict.fromkeys(("save_every", "save_interval", "checkpoint_interval", "save_freq"), "save_steps"),
    **dict.fromkeys(("wandb", "wandb_log", "use_wandb"), "report_to"),
    "wandb_run_name": "run_name",
    "random_seed": "seed",
}
