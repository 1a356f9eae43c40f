"""The project's reliability and optimizers under other Trainers and models: the library's own, and TRL's."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback

from tests.neighbours import tuners
from tests.neighbours.tuners import DROPOUT, MUON_LEARNING_RATE, SCHEDULE, STEPS, At, ReliableStockTrainer
from training.errors import InputError
from training.run.interruption import RunStoppedError, StopRequest
from training.run.trainer import ReliableTrainer


@pytest.fixture
def config(tiny_config, tokenizer):
    return tiny_config(**tuners.special_tokens(tokenizer), **DROPOUT)


@pytest.fixture(params=["classification", "gpt2", "sft"])
def tuner(request, config, tokenizer, tmp_path):
    """Builds one of the Trainers with checkpoints in a folder; TrainingArguments can be overridden."""

    def build(name: str, *callbacks: TrainerCallback, stop: StopRequest | None = None, **settings) -> ReliableTrainer:
        torch.manual_seed(0)
        ours = tuners.reliability(tmp_path / name, stop)
        kind = getattr(tuners, request.param)
        return kind(config, tokenizer, tmp_path / name, settings, callbacks=list(callbacks), **ours)

    return build


@pytest.fixture
def calm(tuner) -> ReliableTrainer:
    """A run that nothing happened to."""
    trainer = tuner("calm")
    trainer.train()
    return trainer


def interrupt() -> None:
    raise KeyboardInterrupt


def resume(trainer: ReliableTrainer) -> ReliableTrainer:
    checkpoint, damaged = trainer.checkpoints.newest_valid()
    assert not damaged
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def lines(trainer: ReliableTrainer) -> list[dict]:
    """What is logged of losses and gradients; TRL's own counts are no part of a checkpoint."""
    names = ("step", "loss", "loss_min", "loss_max", "grad_norm", "grad_norm_max", "learning_rate", "eval_loss")
    kept = [{name: line[name] for name in names if name in line} for line in trainer.state.log_history]
    return [line for line in kept if line.keys() & {"loss", "eval_loss"}]


def assert_same_end(trainer: ReliableTrainer, calm: ReliableTrainer) -> None:
    assert trainer.state.global_step == calm.state.global_step == STEPS
    assert lines(trainer) == lines(calm)
    expected = calm.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trainer.model.state_dict().items())


def test_an_interrupted_run_goes_on_to_the_very_same_end(tuner, calm):
    for step, checkpoint in ((9, 8), (15, 12)):  # from within an epoch, with a step that has no line yet; from its end
        name = f"halted-{step}"
        with pytest.raises(KeyboardInterrupt):
            tuner(name, At(step, interrupt)).train()
        trainer = tuner(name)
        assert trainer.checkpoints.newest_valid()[0].name == f"checkpoint-{checkpoint}"
        assert_same_end(resume(trainer), calm)


def test_a_training_line_tells_of_every_step_with_the_loss_that_the_library_counts(tuner, monkeypatch):
    counted, log = [], ReliableTrainer.log

    def watch(self, logs, *args):
        counted.append(logs.get("loss"))
        return log(self, logs, *args)

    none = {"eval_strategy": "no", "save_strategy": "no"}
    single = tuner("single", logging_steps=1, **none)
    with monkeypatch.context() as patch:
        patch.setattr(ReliableTrainer, "log", watch)
        single.train()
    steps = lines(single)
    assert [step["loss"] for step in steps] == [loss for loss in counted if loss is not None]
    assert [step["learning_rate"] for step in steps] == [MUON_LEARNING_RATE * SCHEDULE(step) for step in range(STEPS)]
    triple = tuner("triple", **none)
    triple.train()
    assert [line["step"] for line in lines(triple)] == [3, 6, 9, 12, 15, 18]
    for line in lines(triple):
        losses, norms = (
            [step[name] for step in steps[line["step"] - 3 : line["step"]]] for name in ("loss", "grad_norm")
        )
        assert (line["loss_min"], line["loss_max"], line["grad_norm_max"]) == (min(losses), max(losses), max(norms))
        assert line["loss"] == pytest.approx(sum(losses) / 3, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "blocks", "per_block", "decayed"),
    [
        ("classification", "model.layers.", 6, ["model.embed_tokens", "model.embed_positions", "score"]),
        ("gpt2", "transformer.h.", 4, ["transformer.wte", "transformer.wpe"]),
        ("sft", "model.layers.", 6, ["model.embed_tokens", "model.embed_positions"]),
    ],
)
def test_muon_gets_the_blocks_matrices_alone(kind, blocks, per_block, decayed, config, tokenizer, tmp_path):
    trainer = getattr(tuners, kind)(config, tokenizer, tmp_path, {}, **tuners.reliability(tmp_path))
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in trainer.create_optimizer().param_groups]
    assert len(groups[0]) == 2 * per_block
    assert all(name.startswith(blocks) and name.endswith(".weight") for name in groups[0])
    assert groups[1] == [f"{name}.weight" for name in decayed]
    assert sum(len(group) for group in groups) == len(names)


def test_a_checkpoint_opens_as_its_own_class(tuner, calm):
    assert [path.name for path in calm.checkpoints.all()] == [f"checkpoint-{step}" for step in (4, 8, 12, 16, 18)]
    folder = calm.checkpoints.all()[-1]
    model, found = type(calm.model).from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    expected = calm.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert model.config.use_cache  # TrainingArguments has turned it off for training
    assert (folder / "tokenizer.json").is_file()


STOPS = [("on_step_end", 7), ("on_step_end", 10), ("on_step_end", 12), ("on_prediction_step", 10)]


@pytest.mark.parametrize(("event", "step"), STOPS)
def test_a_stop_leads_to_a_checkpoint_and_then_to_the_same_end(event, step, tuner, calm):
    stop = StopRequest()
    trainer = tuner("stopped", At(step, lambda: setattr(stop, "signal_number", 15), event), stop=stop)
    trainer.train()
    with pytest.raises(RunStoppedError):
        stop.raise_if_asked()
    assert trainer.checkpoints.all()[-1].name == f"checkpoint-{step}"
    assert_same_end(resume(tuner("stopped")), calm)


@pytest.mark.parametrize(("event", "step"), [("on_step_end", 8), ("on_step_end", 12), ("on_prediction_step", 12)])
@pytest.mark.parametrize("tuner", ["classification"], indirect=True)
def test_a_stop_within_an_epoch_is_not_its_end(event, step, tuner):
    settings = {"eval_strategy": "epoch", "logging_strategy": "epoch", "save_strategy": "epoch"}
    calm = tuner("calm", **settings)
    calm.train()
    assert [line["step"] for line in lines(calm)] == [6, 6, 12, 12, 18, 18]
    stop = StopRequest()
    tuner("stopped", At(step, lambda: setattr(stop, "signal_number", 15), event), stop=stop, **settings).train()
    assert_same_end(resume(tuner("stopped", **settings)), calm)


@pytest.mark.parametrize("tuner", ["classification"], indirect=True)
def test_an_epochs_evaluation_comes_before_the_checkpoint_of_its_last_step(tuner):
    settings = {"eval_strategy": "epoch", "save_steps": 6}
    calm = tuner("calm", **settings)
    calm.train()
    with pytest.raises(KeyboardInterrupt):
        tuner("killed", At(12, interrupt, "on_prediction_step"), **settings).train()
    assert_same_end(resume(tuner("killed", **settings)), calm)


@pytest.mark.parametrize("tuner", ["classification"], indirect=True)
def test_a_run_that_ends_within_an_epoch_does_then_what_is_due_at_its_end(tuner):
    trainer = tuner("run", max_steps=8, eval_strategy="epoch", save_strategy="epoch", logging_strategy="epoch")
    trainer.train()
    assert [line["step"] for line in lines(trainer)] == [6, 6, 8, 8]
    assert [path.name for path in trainer.checkpoints.all()] == ["checkpoint-6", "checkpoint-8"]


@pytest.mark.parametrize("tuner", ["classification"], indirect=True)
def test_a_stop_in_an_evaluation_leaves_the_best_metric_to_the_resumed_run(tuner):
    # The highest, which is in the middle of this run, so that no later one makes up for it.
    best = {"metric_for_best_model": "loss", "greater_is_better": True, "save_strategy": "best"}
    settings = {**best, "eval_on_start": True}
    calm = tuner("calm", **settings)
    calm.train()
    stop = StopRequest()
    at = At(10, lambda: setattr(stop, "signal_number", 15), "on_prediction_step")
    trainer = tuner("stopped", at, stop=stop, **settings)
    trainer.train()
    assert [path.name for path in trainer.checkpoints.all()] == ["checkpoint-5", "checkpoint-10"]
    trainer = resume(tuner("stopped", **settings))
    assert_same_end(trainer, calm)
    assert trainer.state.best_metric == calm.state.best_metric
    assert trainer.state.best_global_step == calm.state.best_global_step == 10


def test_a_stop_between_two_evaluation_sets_is_made_up_for(config, tokenizer, tmp_path):
    stop = StopRequest()

    class BetweenSets(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            if state.global_step == 5 and "eval_first_loss" in metrics:
                stop.signal_number = 15

    def start(name: str, *callbacks: TrainerCallback, stop: StopRequest | None = None) -> ReliableTrainer:
        torch.manual_seed(0)
        others = tuners.reliability(tmp_path / name, stop) | {"callbacks": list(callbacks)}
        trainer = tuners.classification(config, tokenizer, tmp_path / name, {}, **others)
        trainer.eval_dataset = {"first": trainer.eval_dataset, "second": trainer.eval_dataset[:3]}
        return trainer

    def measured(trainer: ReliableTrainer) -> dict[tuple[int, str], float]:
        history = trainer.state.log_history
        return {(line["step"], name): line[name] for line in history for name in line if name.endswith("_loss")}

    calm = start("calm")
    calm.train()
    start("stopped", BetweenSets(), stop=stop).train()
    stop.signal_number = 0
    with pytest.raises(RunStoppedError):  # again, where it is to be made up for
        resume(start("stopped", BetweenSets(), stop=stop))
    trainer = resume(start("stopped"))
    assert (5, "eval_second_loss") in measured(calm)
    assert measured(trainer) | {(18, "train_loss"): 0} == measured(calm) | {(18, "train_loss"): 0}


def test_a_gradient_that_is_no_number_changes_no_weight(tuner, monkeypatch):
    training_step, before = ReliableTrainer.training_step, {}

    def poisoned(self, model, *rest):
        loss = training_step(self, model, *rest)
        if self.state.global_step == 5:
            before.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
            next(model.parameters()).grad[3, 5] = torch.nan
        return loss

    monkeypatch.setattr(ReliableTrainer, "training_step", poisoned)
    trainer = tuner("run")
    with pytest.raises(FloatingPointError, match=r"in step 6: the gradient norm is nan.*the last.*is checkpoint-4"):
        trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_the_last_evaluation_is_remembered(tuner):
    trainer = tuner("run", eval_strategy="epoch", save_strategy="no", num_train_epochs=1)
    trainer.train()
    (measured,) = [line["eval_loss"] for line in lines(trainer) if "eval_loss" in line]
    assert trainer.evaluation_of(6)["eval_loss"] == measured
    assert trainer.evaluation_of(5) is None


def test_muon_is_not_left_out_in_silence_for_an_optimizer_that_was_given(config, tokenizer, tmp_path):
    ours = tuners.reliability(tmp_path)
    with pytest.raises(InputError, match="beside an optimizer of your own"):
        tuners.gpt2(config, tokenizer, tmp_path, {}, optimizer_cls_and_kwargs=(torch.optim.SGD, {}), **ours)
    optimizer = torch.optim.SGD([torch.zeros(1)])
    with pytest.raises(InputError, match="beside an optimizer of your own"):
        tuners.gpt2(config, tokenizer, tmp_path, {}, optimizers=(optimizer, None), **ours)
    trainer = tuners.gpt2(
        config, tokenizer, tmp_path, {}, optimizers=(optimizer, None), **ours | {"muon_learning_rate": None}
    )
    assert trainer.create_optimizer() is optimizer


def test_what_checkpoints_cannot_hold_is_refused_before_anything_is_trained(config, tokenizer, tmp_path):
    ours = tuners.reliability(tmp_path)
    best = {"save_steps": 5, "load_best_model_at_end": True}
    with pytest.raises(InputError, match="load_best_model_at_end"):
        tuners.classification(config, tokenizer, tmp_path, best, **ours)
    with pytest.raises(InputError, match="model is str"):
        ReliableStockTrainer(model="model", **ours)
    peft = pytest.importorskip("peft", reason="needs the extra 'finetune'")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2))
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True), model)
    with pytest.raises(InputError, match="or has adapters"):
        ReliableStockTrainer(model=model, **ours)
    lora = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4)
    with pytest.raises(InputError, match=r"PeftModel.*without LoRA"):
        tuners.sft(config, tokenizer, tmp_path, {}, peft_config=lora, **ours)
