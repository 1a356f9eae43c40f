"""What tests of the model share: prompts, a model beside the library's GPT-2, classifiers."""

import pytest
import torch

from modeling_gpt_scratch import GPTScratchForSequenceClassification
from tests.modeling.comparison import PAD, gpt2_with_the_weights_of


@pytest.fixture
def prompts() -> dict[str, torch.Tensor]:
    """Two prompts, the first one padded on the left with 0."""
    input_ids = torch.randint(1, 128, (2, 7))
    mask = torch.ones_like(input_ids)
    input_ids[0, :3], mask[0, :3] = 0, 0
    return {"input_ids": input_ids, "attention_mask": mask}


@pytest.fixture
def prompt() -> dict[str, torch.Tensor]:
    input_ids = torch.randint(1, 128, (1, 7))
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


@pytest.fixture(scope="module")
def twins(tiny_model):
    model = tiny_model(pad_token_id=0)
    return model, gpt2_with_the_weights_of(model)


@pytest.fixture
def classifier(tiny_model):
    """Builds a head of the given class on the small model, with weights of a size that shows mistakes."""

    def build(model_class=GPTScratchForSequenceClassification, **overrides):
        language_model = tiny_model(**{"pad_token_id": PAD} | overrides)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = model_class(language_model.config).eval()
            model.model.load_state_dict(language_model.model.state_dict())
            torch.nn.init.normal_(model.score.weight, std=0.3)
        return model

    return build
