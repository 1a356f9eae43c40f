"""What others measure or find, as far as a model card reads it: lm-eval, and the process that opens a release."""

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

OPENED = {"answer": "", "versions": {"transformers": "5.23.0", "torch": "2.13.0", "python": "3.11.7"}}
