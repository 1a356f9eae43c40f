"""Models whose tokens are characters, published: trained here, or nanoGPT's, which has no end of text."""

import json
import re

import pytest
from huggingface_hub import ModelCard

import hub_upload
from modeling_gpt_scratch.conversion import convert
from publishing import client as publishing_client
from tests.conversion.conversions import fused_model, write_nanogpt
from tests.strangers import run_program
from training.__main__ import main


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The model of a run on characters; its records hold relative paths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ships.txt").write_text("Seven ships, and not one of them carries a letter.\n" * 40)
    sizes = "--model demo --hidden_size 32 --num_hidden_layers 1 --max_position_embeddings 32 --disable_tqdm true"
    steps = "--tokens_per_step 64 --per_device_train_batch_size 2 --max_steps 2 --save_strategy no"
    words = f"pretrain {sizes} {steps} --corpus ships.txt --output_dir run --tokenizer characters"
    assert main(words.split()) == 0
    return tmp_path / "run" / "model"


@pytest.fixture
def converted(tmp_path):
    """nanoGPT's model of digits: it knows nothing of what people usually try a model with."""
    meta = {"stoi": {character: index for index, character in enumerate("0123456789+=\n")}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    model, sizes = fused_model(vocab_size=13)
    source = write_nanogpt(tmp_path / "out", model.state_dict(), sizes)
    convert(source, tmp_path / "model", tokenizer=str(tmp_path / "meta.json"))
    return tmp_path / "model"


@pytest.fixture
def publish(hub, monkeypatch, capsys):
    """Publishes a folder, and gives the programs on its card."""

    def run(folder) -> list[str]:
        monkeypatch.setattr(publishing_client, "FIRST_WAIT_SECONDS", 0.01)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", hub.add_token("alice"))
        assert hub_upload.main([str(folder), "alice/characters"]) == 0
        assert "verified: " in capsys.readouterr().out
        card = ModelCard(hub.repositories["alice/characters"].files()["README.md"].decode())
        return re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)

    return run


@pytest.mark.slow
def test_a_model_that_was_trained_on_characters_is_published(trained, publish):
    publish(trained)


@pytest.mark.slow
def test_nanogpts_model_is_published_and_tuned_as_its_card_says(converted, publish, hub, tmp_path):
    tuning = next(program for program in publish(converted) if "Trainer" in program)
    tuning = tuning.replace("your first text", "1+1=2").replace("your second text", "2+2=4")
    (tmp_path / "reader").mkdir()
    variables = hub.environment(None, tmp_path / "home")
    assert "train_loss" in run_program(tuning, workplace=tmp_path / "reader", variables=variables).stdout
