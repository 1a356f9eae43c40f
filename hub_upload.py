"""
`python hub_upload.py MODEL --dry-run`: checks a model folder as a stranger would use it, and lists what publishing it
would send.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from training.errors import InputError

# What a model repository holds. Anything else in the folder stays at home.
PUBLISHED = (
    "README.md",
    "config.json",
    "generation_config.json",
    "configuration_*.py",
    "modeling_*.py",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
REQUIRED = ("config.json", "tokenizer_config.json")
# Formats that can run code when they are opened.
PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
ALLOWED_IMPORTS = {"torch", "transformers", "huggingface_hub"}

# Runs where this clone cannot be imported; opens the folder the way the model card tells people to.
STRANGER = """
import json, sys, torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
AutoModel.from_pretrained(folder, trust_remote_code=True)
model, loading = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
length = min(16, config.max_position_embeddings)
logits = model.eval()(torch.arange(length).remainder(config.vocab_size).unsqueeze(0)).logits
print(json.dumps({
    "code": type(model).__module__,
    "finite": bool(torch.isfinite(logits).all()),
    "missing": sorted(loading["missing_keys"]),
    "unexpected": sorted(loading["unexpected_keys"]),
    "mismatched": sorted(str(key) for key in loading["mismatched_keys"]),
    "parameters": model.num_parameters(),
    "tokens": len(tokenizer),
    "vocab_size": config.vocab_size,
    "special_tokens": {
        name: [getattr(tokenizer, name), getattr(config, name)] for name in ("eos_token_id", "pad_token_id")
    },
}))
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python hub_upload.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model folder, such as runs/demo/model")
    parser.add_argument("--dry-run", action="store_true", required=True, help="check and list; nothing is sent")
    folder = parser.parse_args(argv).model
    try:
        problems, files = check_folder(folder)
        if not problems:
            report = open_as_stranger(folder)
            problems = report_problems(report)
    except (InputError, OSError) as error:
        problems = [str(error)]
    if problems:
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    print(f"{folder} opens in a process without this clone: {report['parameters']:,} parameters")
    print("would be published:")
    for file in files:
        print(f"  {file.stat().st_size:>13,} bytes  {file.relative_to(folder)}")
    left_out = sorted(path.name for path in folder.iterdir() if path not in files)
    if left_out:
        print(f"would stay here: {', '.join(left_out)}")
    return 0


def check_folder(folder: Path) -> tuple[list[str], list[Path]]:
    """Looks at the files alone. Returns the problems found, and the files that would be published.

    Raises:
        InputError: it is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder" if folder.exists() else f"{folder} does not exist")
    problems = [f"{folder} has no {name}" for name in REQUIRED if not (folder / name).is_file()]
    files = sorted({file for pattern in PUBLISHED for file in folder.glob(pattern) if file.is_file()})
    weights = [file for file in files if file.suffix == ".safetensors"]
    if not weights:
        problems.append(f"{folder} has no weights (model.safetensors)")
    for file in weights:
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            problems.append(f"{file.name} cannot be read: {error}")
    problems += [
        f"{file.relative_to(folder)} can run code when it is opened: convert it to safetensors or take it out"
        for file in sorted(folder.rglob("*"))
        if file.suffix in PICKLES
    ]
    problems += _check_config(folder) if (folder / "config.json").is_file() else []
    return problems, files


def _check_config(folder: Path) -> list[str]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        return [f"config.json is not JSON: {error}"]
    auto_map = config.get("auto_map", {}) if isinstance(config, dict) else None
    if not isinstance(auto_map, dict):
        return ["config.json holds no mapping, or an auto_map that is none"]
    problems = [
        f"config.json has no {name} in auto_map, so AutoModel classes cannot find the code"
        for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
        if name not in auto_map
    ]
    modules = {}
    for name, reference in auto_map.items():
        if not isinstance(reference, str):
            problems.append(f"auto_map's {name} is {reference}, not module.Class")
            continue
        # "owner/name--module.Class" is code that lives in another repository.
        module, _, class_name = reference.rpartition("--")[2].partition(".")
        file = folder / f"{module}.py"
        if "--" in reference or not file.is_file():
            problems.append(f"auto_map's {name} is {reference}, but the folder holds no {module}.py of its own")
            continue
        if file not in modules:
            try:
                modules[file] = ast.parse(file.read_text(encoding="utf-8"))
            except (SyntaxError, ValueError) as error:
                return [*problems, f"{file.name} is not Python code: {error}"]
            problems += _check_imports(file, modules[file])
        if not any(isinstance(node, ast.ClassDef) and node.name == class_name for node in modules[file].body):
            problems.append(f"auto_map's {name} is {reference}, but {module}.py has no class {class_name}")
    return problems


def _check_imports(file: Path, module: ast.Module) -> list[str]:
    """Published code may import torch, transformers, huggingface_hub, the standard library, and its sibling file."""
    problems = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 1 and node.module and (file.parent / f"{node.module}.py").is_file():
                continue
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        problems += [
            f"{file.name}, line {node.lineno}: imports {name}, which users may not have"
            for name in names
            if name.split(".")[0] not in ALLOWED_IMPORTS | sys.stdlib_module_names
        ]
    return problems


def open_as_stranger(folder: Path) -> dict:
    """Opens the folder in a fresh process that has torch and transformers but not this clone.

    Raises:
        InputError: it does not open there.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_TOKEN")}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": elsewhere, "PYTHONSAFEPATH": "1"}
        finished = subprocess.run(
            [sys.executable, "-c", STRANGER, str(folder.resolve())],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"{folder} does not open in a process without this clone: {lines[-1]}")
    return json.loads(finished.stdout.splitlines()[-1])


def report_problems(report: dict) -> list[str]:
    """What a stranger's process found wrong."""
    problems = []
    if not report["code"].startswith("transformers_modules."):
        problems.append(f"the model ran the installed {report['code']}, not the folder's own code")
    if not report["finite"]:
        problems.append("the logits are not finite")
    problems += [
        f"{kind} weights: {', '.join(report[kind])}" for kind in ("missing", "unexpected", "mismatched") if report[kind]
    ]
    if report["tokens"] > report["vocab_size"]:
        problems.append(f"the tokenizer has {report['tokens']:,} tokens, but vocab_size is {report['vocab_size']:,}")
    for name, (tokenizer, config) in report["special_tokens"].items():
        if tokenizer != config:
            problems.append(f"{name} is {tokenizer} in the tokenizer, but {config} in config.json")
    return problems


if __name__ == "__main__":
    sys.exit(main())
