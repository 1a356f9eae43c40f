"""A program of one's own: a line through noisy points. `python -m tests.training.run.regression --slope 2 ...`"""

import sys
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from configuration.fields import setting
from configuration.recipe import Recipe
from training.run.command import program_parser, read_command
from training.run.exit_codes import exit_code_of
from training.run.lifecycle import run_program
from training.run.program import Program
from training.run.trainer import ReliableTrainer


class LineConfig(PreTrainedConfig):
    model_type = "line"


class Line(PreTrainedModel):
    config_class = LineConfig

    def __init__(self, config):
        super().__init__(config)
        self.linear, self.dropout = nn.Linear(1, 1), nn.Dropout(0.1)
        self.post_init()

    def forward(self, x, labels=None):
        y = self.dropout(self.linear(x))
        return SequenceClassifierOutput(None if labels is None else nn.functional.mse_loss(y, labels), y)


@dataclass(frozen=True, kw_only=True)
class LineSettings:
    slope: float = setting("of the line that the points lie on", within=(-10, 10))
    noise: float = setting("standard deviation of the points from it", 0.1)


@dataclass(frozen=True, kw_only=True)
class RegressionRecipe(Recipe):
    line: LineSettings


class ReliableStockTrainer(ReliableTrainer, Trainer):
    pass


class Regression(Program):
    name, recipe_class = "regression", RegressionRecipe
    own_groups = {"data": ("slope", "noise")}
    figures = {"eval_loss": "squared error"}

    def prepare(self, begun_on, say):
        x = torch.linspace(-1, 1, 96)[:, None]
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * self.recipe.line.noise
        self.points = [{"x": a, "labels": b} for a, b in zip(x, self.recipe.line.slope * x + noise, strict=True)]
        return {"points": len(self.points), "slope": self.recipe.line.slope, "noise": self.recipe.line.noise}

    def num_examples(self):
        return len(self.points[::2])

    def make_model(self, parent):
        set_seed(self.recipe.training["seed"])
        return Line(LineConfig())

    def make_trainer(self, model, args, **run):
        data = {"train_dataset": self.points[::2], "eval_dataset": self.points[1::2]}
        return ReliableStockTrainer(model=model, args=args, **data, **run)

    def measure(self, trainer):
        return trainer.evaluation_of(trainer.args.max_steps) or trainer.evaluate()

    def inputs(self, model):
        return {"x": torch.ones(1, 1)}


def main(argv):
    parser = program_parser(Regression, "regression", __doc__)
    recipe, allowed, options = read_command(parser, Regression, argv)
    run_program(Regression(recipe), options.resume, allowed)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
