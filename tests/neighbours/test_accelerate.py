"""The model under Accelerate: spread over devices and disk, and sharded layer by layer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="needs the extra 'train'")

from accelerate import FullyShardedDataParallelPlugin, infer_auto_device_map
from transformers import AutoModelForCausalLM

from modeling_gpt_scratch.modeling_gpt_scratch import GPTScratchDecoderLayer
from tests.strangers import run_as_stranger

REPOSITORY = Path(__file__).resolve().parents[2]
INPUT_IDS = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]]
TIED = pytest.mark.parametrize("tied", [True, False])

STRANGER = """
import json
import sys

import torch
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
input_ids, max_memory = torch.tensor(json.loads(sys.argv[1])), json.loads(sys.argv[2])
options = {"trust_remote_code": True, "device_map": "auto"}
models = [
    AutoModelForCausalLM.from_pretrained("model", **options),
    AutoModelForCausalLM.from_pretrained("model", **options, max_memory=max_memory, offload_folder="offload"),
]
with torch.no_grad():
    logits = [model(input_ids).logits.tolist() for model in models]
print(
    json.dumps(
        {
            "modules": [type(model).__module__ for model in models],
            "logits": logits,
            "places": models[1].hf_device_map,
        }
    )
)
"""

# One process that believes it is a group: shards of one part each, but the same wrapping, gathering and gradients.
SHARDED = """
import itertools
import json
import sys
from types import SimpleNamespace

import torch
import torch.distributed
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import fsdp2_prepare_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from modeling_gpt_scratch import GPTScratchForCausalLM
from training.optimization.muon import Muon
from training.optimization.optimizers import MuonWithAuxiliary

torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",))


def shard(model, wrapping):
    if wrapping in ("torch", "torch, head apart"):
        for unit in [*model.model.layers, *([model.lm_head] if wrapping != "torch" else [])]:
            fully_shard(unit, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    # What `Accelerator.prepare` does on accelerators; on CPU it chooses DistributedDataParallel.
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=mesh,
        parallelism_config=SimpleNamespace(fsdp_dim_names=["fsdp"]),
        mixed_precision="no",
        is_main_process=True,
        device=torch.device("cpu"),
    )
    return fsdp2_prepare_model(accelerator, model)


def train(model, skip_logits, muon=False):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if muon:
        in_layers = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
        known = {id(parameter) for parameter in in_layers}
        others = [parameter for parameter in model.parameters() if id(parameter) not in known]
        optimizer = MuonWithAuxiliary(Muon(in_layers, lr=0.02, weight_decay=0.0), torch.optim.AdamW(others, lr=1e-2))
    input_ids = torch.randint(128, (2, 16), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(4):
        loss = model(input_ids, labels=input_ids, skip_logits=skip_logits).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


reports = {}
ways = [*itertools.product((True, False), ("torch", "accelerate")), (False, "torch, head apart")]
for (tied, wrapping), skip_logits in itertools.product(ways, (True, False)):
    folder = f"{sys.argv[1]}/{'tied' if tied else 'untied'}"
    model = shard(GPTScratchForCausalLM.from_pretrained(folder), wrapping)
    reports[f"{tied} {wrapping} {skip_logits}"] = {
        "sharded": [name for name, weight in model.named_parameters() if isinstance(weight, DTensor)],
        "units": [name for name, module in model.named_modules() if isinstance(module, FSDPModule)],
        "losses": train(model, skip_logits),
        "expected": train(GPTScratchForCausalLM.from_pretrained(folder), False),
    }
model = shard(GPTScratchForCausalLM.from_pretrained(folder), "torch")
reports["muon"] = {
    "losses": train(model, True, muon=True),
    "expected": train(GPTScratchForCausalLM.from_pretrained(folder), True, muon=True),
}
torch.distributed.destroy_process_group()
print(json.dumps(reports))
"""


@pytest.fixture
def four_layers(tiny_model, tmp_path):
    """A model of four layers, its folder beside the test's other files, and its logits."""

    def build(tied: bool):
        model = tiny_model(num_hidden_layers=4, tie_word_embeddings=tied)
        model.save_pretrained(tmp_path / "model")
        with torch.no_grad():
            return model, model(torch.tensor(INPUT_IDS)).logits

    return build


def room_for(model, layers: float) -> dict:
    """Memory for the embeddings and so many layers, in bytes; Accelerate keeps room for one more layer free."""
    layer = 4 * sum(weight.numel() for weight in model.model.layers[0].parameters())
    rest = 4 * model.num_parameters() - layer * len(model.model.layers)
    return {"cpu": int(rest + (layers + 1) * layer), "disk": 10**9}


@TIED
def test_a_device_map_places_whole_layers(four_layers, tied):
    model, _ = four_layers(tied)
    budget = room_for(model, 1.6)
    places = infer_auto_device_map(model, max_memory=budget, no_split_module_classes=list(model._no_split_modules))
    layers = {name: place for name, place in places.items() if ".layers." in name}
    assert layers == {f"model.layers.{layer}": "cpu" if layer < 1 else "disk" for layer in range(4)}
    # Without the model's advice the same budget cuts a layer in two.
    assert any(name.count(".") > 2 for name in infer_auto_device_map(model, max_memory=budget))


@TIED
@pytest.mark.parametrize("offloaded", [False, True])
def test_a_spread_model_gives_the_same_logits(four_layers, tied, offloaded, tmp_path):
    model, expected = four_layers(tied)
    options = {"max_memory": room_for(model, 1.6), "offload_folder": tmp_path / "offload"} if offloaded else {}
    spread = AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map="auto", **options)
    assert (spread.model.layers[3].mlp.fc_in.weight.device.type == "meta") == offloaded  # on disk until it is called
    with torch.no_grad():
        torch.testing.assert_close(spread(torch.tensor(INPUT_IDS)).logits, expected)
    prompt = torch.tensor(INPUT_IDS[:1])
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(spread.generate(prompt, **options), model.generate(prompt, **options))


@TIED
def test_layers_put_on_disk_by_hand_give_the_same_logits(four_layers, tied, tmp_path):
    _, expected = four_layers(tied)
    places = {"model.embed_tokens": "cpu", "model.embed_positions": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{layer}": "disk" if layer in (1, 2) else "cpu" for layer in range(4)}
    spread = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload"
    )
    assert [layer.mlp.fc_in.weight.device.type for layer in spread.model.layers] == ["cpu", "meta", "meta", "cpu"]
    with torch.no_grad():
        torch.testing.assert_close(spread(torch.tensor(INPUT_IDS)).logits, expected)


@pytest.mark.slow
def test_a_process_without_this_package_spreads_the_folder_too(four_layers, tmp_path):
    model, expected = four_layers(True)
    arguments = [json.dumps(INPUT_IDS), json.dumps(room_for(model, 1.6))]
    report, _ = run_as_stranger(STRANGER, *arguments, workplace=tmp_path)
    assert {module.split(".")[0] for module in report["modules"]} == {"transformers_modules"}
    assert report["places"]["model.layers.0"] == "cpu"
    assert report["places"]["model.layers.3"] == "disk"
    for logits in report["logits"]:
        torch.testing.assert_close(torch.tensor(logits), expected, atol=1e-5, rtol=0)


def test_the_transformer_wrap_policy_finds_the_layer_by_itself(tiny_model):
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(tiny_model())
    assert plugin.auto_wrap_policy.keywords == {"transformer_layer_cls": {GPTScratchDecoderLayer}}


@pytest.fixture(scope="module")
def sharded(tiny_model, tmp_path_factory):
    """What the process group of one reports about every way of sharding."""
    workplace = tmp_path_factory.mktemp("sharded")
    for tied in (True, False):
        tiny_model(tie_word_embeddings=tied).save_pretrained(workplace / ("tied" if tied else "untied"))
    process = subprocess.run(
        [sys.executable, "-c", SHARDED, str(workplace)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tied", "wrapping"),
    [(True, "torch"), (True, "accelerate"), (False, "torch"), (False, "accelerate"), (False, "torch, head apart")],
)
@pytest.mark.parametrize("skip_logits", [True, False])
def test_a_sharded_model_trains_as_a_whole_one(tiny_model, sharded, tied, wrapping, skip_logits):
    report = sharded[f"{tied} {wrapping} {skip_logits}"]
    assert report["sharded"] == [name for name, _ in tiny_model(tie_word_embeddings=tied).named_parameters()]
    inside_layers = {name for name in report["units"] if name.startswith("model.layers.")}
    assert inside_layers == {"model.layers.0", "model.layers.1"}
    assert report["losses"] == pytest.approx(report["expected"], rel=1e-5)
    assert report["losses"][-1] < report["losses"][0]


@pytest.mark.slow
def test_muon_trains_a_sharded_model_as_a_whole_one(sharded):
    report = sharded["muon"]
    assert report["losses"] == pytest.approx(report["expected"], rel=1e-5)
    assert report["losses"][-1] < report["losses"][0] - 0.1
