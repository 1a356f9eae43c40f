"""
Opens a release as people on the Hub do. Runs by itself, in a fresh process that cannot import this project:

    python -P stranger.py REQUEST.json     prints what it found as JSON on its last line

REQUEST.json: `place` (a folder, or a repository's name), `revision`, `trust_remote_code`, `auto_class`, `task`,
`threads`, `probe` (a safetensors file with `input_ids` and the `logits` that they must give in fp32), `sha256` (name ->
hash of each file of a repository, or null for a folder).
"""

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

# An installed copy would be found otherwise. Nobody else has one.
HIDDEN = ("modeling_gpt_scratch", "configuration", "training", "publishing", "hub_upload")
PROMPT = "The"


def main(request: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    place = request["place"]
    if request["sha256"] is not None:
        found["altered"] = altered_files(place, request["revision"], request["sha256"])
        if found["altered"]:
            return found

    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline

    # The code of a folder needs no permission to be found at another revision.
    pinned = {"revision": request["revision"]} if request["revision"] else {}
    if request["trust_remote_code"]:
        pinned["trust_remote_code"] = True
    config = AutoConfig.from_pretrained(place, **pinned)
    tokenizer = AutoTokenizer.from_pretrained(place, **pinned)
    AutoModel.from_pretrained(place, **pinned)
    auto_class = getattr(transformers, request["auto_class"])
    model, loading = auto_class.from_pretrained(place, output_loading_info=True, **pinned)
    torch.set_num_threads(request["threads"])  # other numbers add up in another order
    model = model.eval().float()  # as the source's logits were computed
    probe = load_file(request["probe"])
    with torch.no_grad():
        logits = model(probe["input_ids"]).logits
    places = (("config.json", config), ("generation_config.json", getattr(model, "generation_config", None)))
    found |= {
        "versions": {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "code": type(model).__module__,
        "finite": bool(torch.isfinite(logits).all()),
        "logits_shape": [list(logits.shape), list(probe["logits"].shape)],
        "missing": sorted(loading["missing_keys"]),
        "unexpected": sorted(loading["unexpected_keys"]),
        "mismatched": sorted(str(key) for key in loading["mismatched_keys"]),
        "tokens": max(tokenizer.get_vocab().values()) + 1,  # ids may be left out below the highest
        "tokenizer_sha256": sha256_of_tokenizer(tokenizer),
        "vocab_size": config.vocab_size,
        "special_tokens": {
            f"{name} in {file}": [getattr(tokenizer, name), getattr(fields, name, None)]
            for file, fields in places
            for name in ("bos_token_id", "eos_token_id", "pad_token_id")
            if fields is not None  # classifiers generate nothing
        },
        "lengths": [tokenizer.model_max_length, config.max_position_embeddings],
    }
    if found["logits_shape"][0] == found["logits_shape"][1] and found["finite"]:
        found["logits_difference"] = (logits - probe["logits"]).abs().max().item()
    task = request["task"]
    found["padding_difference"] = padding_difference(model, probe["input_ids"][0], task)
    length = {"max_new_tokens": 8, "do_sample": False} if task == "text-generation" else {}
    del model  # a large one need not be in memory twice
    answer = pipeline(task, model=place, device="cpu", **pinned)(prompt_for(tokenizer), **length)[0]
    found["answer"] = str(answer.get("generated_text", answer))
    return found


def prompt_for(tokenizer: Any) -> str:
    """A text that the tokenizer has tokens for: few characters may be all that it knows."""
    return PROMPT if tokenizer(PROMPT)["input_ids"] else tokenizer.decode([0])


def altered_files(place: str, revision: str, sha256: dict[str, str]) -> list[str]:
    """Downloads everything, and names the files whose bytes are not the announced ones."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(place, revision=revision, allow_patterns=list(sha256)))
    return sorted(
        name
        for name, expected in sha256.items()
        if not (folder / name).is_file() or sha256_of(folder / name) != expected
    )


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_tokenizer(tokenizer: Any) -> str | None:
    """The hash by which a run's record knows its tokenizer; `None` for one without a fast implementation."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    return hashlib.sha256(core.to_str().encode()).hexdigest() if core else None


def padding_difference(model: Any, input_ids: Any, task: str) -> float:
    """How far a row's logits are from its own where it is padded on the left, relative to the largest of them."""
    import torch

    row = input_ids[: max(1, len(input_ids) // 2)]
    padding = len(input_ids) - len(row)
    padded = torch.stack([input_ids, torch.cat([row.new_zeros(padding), row])])
    mask = torch.ones_like(padded)
    mask[1, :padding] = 0
    if task == "text-generation":
        # `generate` is what gives positions to models that do not count them themselves.
        options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        options |= {"pad_token_id": 0, "eos_token_id": None, "max_length": None}
        alone = model.generate(row[None], attention_mask=torch.ones_like(row[None]), **options).logits[0][0]
        together = model.generate(padded, attention_mask=mask, **options).logits[0][1]
    else:
        with torch.no_grad():
            alone = model(row[None], attention_mask=torch.ones_like(row[None])).logits[0]
            together = model(padded, attention_mask=mask).logits[1]
        if task == "token-classification":
            together = together[padding:]
    return ((alone - together).abs().max() / alone.abs().max().clamp_min(1e-9)).item()


if __name__ == "__main__":
    sys.modules.update(dict.fromkeys(HIDDEN))
    try:
        report = main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as failure:  # whatever the libraries raise is the finding
        first_line = (str(failure).strip().splitlines() or ["no message"])[0]
        report = {"error": f"{type(failure).__name__}: {first_line}"}
    print(json.dumps(report))
