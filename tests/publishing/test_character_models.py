"""nanoGPT's character models, published: they have no end of text."""

import json
import re

import pytest
from huggingface_hub import ModelCard

import hub_upload
from modeling_gpt_scratch.conversion import convert
from publishing import client as publishing_client
from tests.conversion.conversions import fused_model, write_nanogpt
from tests.strangers import run_program


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
def test_nanogpts_model_is_published_and_tuned_as_its_card_says(converted, publish, hub, tmp_path):
    tuning = next(program for program in publish(converted) if "Trainer" in program)
    tuning = tuning.replace("your first text", "1+1=2").replace("your second text", "2+2=4")
    (tmp_path / "reader").mkdir()
    variables = hub.environment(None, tmp_path / "home")
    assert "train_loss" in run_program(tuning, workplace=tmp_path / "reader", variables=variables).stdout
