"""
All the way through: from each kind of text, and from another model, to a folder that a stranger opens, a release on
the Hub and, of tokens that are bytes, the same likeliest text in llama.cpp.
"""

import csv
import json
from pathlib import Path

import pytest

import hub_upload
from modeling_gpt_scratch.__main__ import main as convert
from modeling_gpt_scratch.conversion import to_gpt2
from publishing import client as publishing_client
from tests.conftest import TEXT
from tests.llama_cpp import greedy_tokens
from tests.measurements import OPENED
from tests.strangers import run_as_stranger
from training.__main__ import main

CHINESE = "从前有一座灯塔。守塔人每天爬上楼梯擦亮镜子给钟上弦再把风和天气写进本子里。他对海鸥说七条船没有一封信。"
STEPS = "--tokens_per_step 512 --per_device_train_batch_size 8 --max_steps 160 --warmup_steps 4 --learning_rate 1e-2"
SIZES = "--model demo --hidden_size 48 --num_hidden_layers 1 --num_attention_heads 4 --max_position_embeddings 64"
# What is said beside the steps, and how the text begins that the model has learned.
WAYS = {
    "chinese": (f"{SIZES} --corpus chinese.txt --vocab_size 320", "从前有"),
    "table": (f"{SIZES} --corpus tables/*.csv --text_field tale --vocab_size 400", "It was a bright"),
    "characters": (f"{SIZES} --corpus plain.txt --tokenizer characters", "It was a bright"),
    "continued": ("--init_from gpt2 --corpus plain.txt", "It was a bright"),
}
NEW_TOKENS = 24
WRITE = f"""
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
found = {{}}
for way, prompt in json.loads(sys.argv[1]).items():
    model = AutoModelForCausalLM.from_pretrained(way + "/model", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(way + "/model", trust_remote_code=True)
    batch = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**batch, do_sample=False, max_length=batch.input_ids.shape[1] + {NEW_TOKENS})[0].tolist()
    new = ids[batch.input_ids.shape[1] :]
    found[way] = [new, tokenizer.decode(ids, skip_special_tokens=True)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tokenizer) -> Path:
    """A folder with the runs, each called by its way."""
    place = tmp_path_factory.mktemp("ways")
    (place / "chinese.txt").write_text(CHINESE * 30, encoding="utf-8")  # one line
    (place / "plain.txt").write_text(TEXT * 20)
    (place / "tables").mkdir()
    with (place / "tables" / "tales.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "tale"], *enumerate([TEXT] * 20), [20, ""]])
    to_gpt2(tiny_model(vocab_size=400, eos_token_id=0, bos_token_id=0, pad_token_id=1)).save_pretrained(place / "gpt2")
    tokenizer.save_pretrained(place / "gpt2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for way, (words, _) in WAYS.items():
            command = f"pretrain {words} {STEPS} --output_dir {way} --save_strategy no --disable_tqdm true"
            assert main(command.split()) == 0, way
    return place


@pytest.fixture(scope="module")
def written(place) -> dict[str, tuple[list[int], str]]:
    """By way: the likeliest new tokens, as a stranger's process finds them, and the whole text."""
    prompts = {way: prompt for way, (_, prompt) in WAYS.items()}
    return run_as_stranger(WRITE, json.dumps(prompts), workplace=place)[0]


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture
def account(hub, monkeypatch) -> None:
    """Logs alice in. What a stranger finds in a folder, a release's first check, is seen in `written` already."""
    monkeypatch.setattr(publishing_client, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(hub_upload, "check_release", lambda *_: [OPENED])
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", hub.add_token("alice"))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_stranger_and_generate_write_the_text_that_was_learned(here, written, way, capsys):
    ids, text = written[way]
    assert len(set(ids)) > NEW_TOKENS // 4  # no endless repetition, which any model writes
    words = ["--prompt", WAYS[way][1], "--temperature", "0", "--max_new_tokens", str(NEW_TOKENS)]
    capsys.readouterr()
    assert main(["generate", f"{way}/model", *words]) == 0
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_it_is_published_and_opened_from_the_hub(here, account, way, hub, capsys):
    assert hub_upload.main([f"{way}/model", f"alice/{way}"]) == 0
    assert "verified: " in capsys.readouterr().out
    assert "model.safetensors" in hub.repositories[f"alice/{way}"].files()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_llama_cpp_writes_the_same_or_the_conversion_says_why_not(here, written, way, tmp_path, capsys):
    pytest.importorskip("gguf")
    code = convert(["convert", f"{way}/model", str(tmp_path / way), "--to", "gguf"])
    if way == "characters":
        assert (code, list(tmp_path.iterdir())) == (2, [])
        assert "byte" in capsys.readouterr().err
    else:
        assert code == 0
        assert greedy_tokens(tmp_path / way / f"{way}-f32.gguf", WAYS[way][1], NEW_TOKENS) == written[way][0]
