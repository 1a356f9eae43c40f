"""What lm-eval writes, as far as a model card reads it."""

LM_EVAL = {
    "results": {
        "a group": {"acc,none": 0.5},
        "../escaped": {"acc,none": 0.5},
        "lambada_openai": {"alias": "lambada_openai", "acc,none": 0.123456, "acc_stderr,none": 0.01},
    },
    "configs": {
        "../escaped": {},
        "lambada_openai": {"dataset_path": "EleutherAI/lambada_openai", "test_split": "test"},
    },
    "n-shot": {"lambada_openai": 0},
    "lm_eval_version": "0.4.12",
}
