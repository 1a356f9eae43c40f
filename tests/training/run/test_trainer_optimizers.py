"""Which parameters our Trainer gives to which optimizer, with which decay and rates."""

import pytest
import torch

from training.errors import InputError
from training.optimization.optimizers import MuonWithAuxiliary


def test_muon_trains_the_blocks_matrices_and_the_optimizer_all_else(build_trainer):
    trainer = build_trainer(muon_learning_rate=0.02, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, MuonWithAuxiliary)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    matrices, decayed, others = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert len(matrices) == 2 * 6
    assert all(".layers." in name and name.endswith("weight") for name in matrices)
    assert decayed == ["model.embed_tokens.weight", "model.embed_positions.weight"]
    assert len(matrices) + len(decayed) + len(others) == len(names)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 1e-2, 1e-2]


@pytest.mark.parametrize(("muon_learning_rate", "groups"), [(None, 2), (0.02, 3)])
def test_weight_decay_acts_on_all_matrices_and_on_nothing_else(muon_learning_rate, groups, build_trainer):
    trainer = build_trainer(muon_learning_rate=muon_learning_rate, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    assert len(optimizer.param_groups) == groups
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(parameter) for parameter in trainer.model.parameters() if parameter.ndim == 2}
    assert isinstance(optimizer if muon_learning_rate is None else optimizer.parts[1], torch.optim.AdamW)
    assert all(group["fused"] for group in optimizer.param_groups if "fused" in group)


@pytest.mark.parametrize("muon_learning_rate", [None, 0.02])
def test_weight_decay_on_everything_leaves_nothing_out(muon_learning_rate, build_trainer):
    trainer = build_trainer(muon_learning_rate=muon_learning_rate, weight_decay=0.1, ours={"decay_everything": True})
    groups = [group for group in trainer.create_optimizer().param_groups if group["params"]]
    assert {group["weight_decay"] for group in groups} == {0.1}
    assert sum(len(group["params"]) for group in groups) == len(list(trainer.model.parameters()))


@pytest.mark.parametrize("muon_learning_rate", [None, 0.02])
def test_the_schedule_gives_each_step_its_rate(muon_learning_rate, build_trainer, monkeypatch):
    trainer = build_trainer(
        muon_learning_rate=muon_learning_rate, max_steps=4, ours={"schedule": [0.5, 1.0, 0.75, 0.25, 0.0].__getitem__}
    )
    used = []
    step = torch.optim.AdamW.step

    def watch(self, *args, **kwargs):
        used.append([group["lr"] for group in trainer.optimizer.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watch)
    trainer.train()
    peaks = [0.01, 0.01] if muon_learning_rate is None else [0.02, 0.01, 0.01]
    assert used == [[peak * factor for peak in peaks] for factor in (0.5, 1.0, 0.75, 0.25)]


def test_the_state_of_another_optimizer_is_refused(build_trainer, tmp_path):
    saved, other = build_trainer(), build_trainer(ours={"decay_everything": True})
    for trainer in (saved, other):
        trainer.create_optimizer_and_scheduler(3)
    saved._save_optimizer_and_scheduler(tmp_path)
    with pytest.raises(InputError, match="is of another optimizer"):
        other._load_optimizer_and_scheduler(tmp_path)
