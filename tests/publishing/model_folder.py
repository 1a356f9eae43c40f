"""What the release of a run's model folder holds, and how tests change a folder."""

import json

from publishing.contents import CODE_FILES

MODEL = {
    *("README.md", "config.json", *CODE_FILES, "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json"),
}
RECORD = {"loss.png", "metrics.jsonl", "recipe.yaml", "run.json"}


def edit_json(file, **changes):
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in (fields | changes).items() if value != "absent"}))


def edit_config(folder, **changes):
    edit_json(folder / "config.json", **changes)
