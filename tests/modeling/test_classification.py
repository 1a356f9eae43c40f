"""What the classification heads promise: the right token and the right loss."""

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2ForSequenceClassification, Trainer, TrainingArguments

from modeling_gpt_scratch import GPTScratchForTokenClassification
from tests.modeling.comparison import CLOSE, HEADS, PAD, gpt2_with_the_weights_of


def random_ids(*shape: int) -> torch.LongTensor:
    return torch.randint(1, 128, shape)


def pad_rows(rows: list[torch.LongTensor], side: str) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Ids and mask of shape `(batch_size, longest)`."""
    longest = max(len(row) for row in rows)
    missing = [(longest - len(row), 0) if side == "left" else (0, longest - len(row)) for row in rows]
    ids = [F.pad(row, pad, value=PAD) for row, pad in zip(rows, missing, strict=True)]
    mask = [F.pad(torch.ones_like(row), pad) for row, pad in zip(rows, missing, strict=True)]
    return torch.stack(ids), torch.stack(mask)


# The last real token


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_is_classified_like_the_row_alone(side, classifier):
    model = classifier(num_labels=3)
    rows = [random_ids(length) for length in (4, 9, 1)]
    ids, mask = pad_rows(rows, side)
    expected = torch.cat([model(row[None]).logits for row in rows])
    assert expected.std(dim=0).min() > 0.05  # else the comparison would say little
    torch.testing.assert_close(model(ids, attention_mask=mask).logits, expected, **CLOSE)


def test_the_logits_are_those_of_the_last_hidden_state(classifier):
    model, ids = classifier(num_labels=3), random_ids(2, 7)
    last = model.model(ids).last_hidden_state[:, -1]
    torch.testing.assert_close(model(ids).logits, last @ model.score.weight.T, **CLOSE)


def test_padding_on_the_right_is_found_by_the_pad_token_where_there_is_no_mask(classifier):
    model = classifier(num_labels=3)
    ids, mask = pad_rows([random_ids(length) for length in (4, 9)], "right")
    torch.testing.assert_close(model(ids).logits, model(ids, attention_mask=mask).logits, **CLOSE)


def test_the_mask_counts_where_it_says_that_a_pad_token_is_text(classifier):
    # As with a tokenizer whose padding is its end-of-text token: a text may end in it.
    model, ids = classifier(num_labels=3), torch.tensor([[5, 6, PAD], [7, 8, 9]])
    expected = torch.cat([model(row[None], attention_mask=torch.ones(1, 3)).logits for row in ids])
    torch.testing.assert_close(model(ids, attention_mask=torch.ones(2, 3)).logits, expected, **CLOSE)
    last = model.model(ids).last_hidden_state[:, -1]
    torch.testing.assert_close(expected, last @ model.score.weight.T, **CLOSE)


def test_a_bias_is_added_where_the_configuration_has_one(classifier):
    assert classifier(num_labels=3).score.bias is None
    model, ids = classifier(num_labels=3, classifier_bias=True), random_ids(2, 7)
    with torch.no_grad():
        model.score.bias += torch.tensor([1.0, 2.0, 3.0])
    last = model.model(ids).last_hidden_state[:, -1]
    torch.testing.assert_close(model(ids).logits, last @ model.score.weight.T + model.score.bias, **CLOSE)


def test_embeddings_instead_of_ids_give_the_same_logits(classifier):
    model = classifier(num_labels=3)
    ids, mask = pad_rows([random_ids(length) for length in (4, 9)], "right")
    embedded = model.get_input_embeddings()(ids)
    expected = model(ids, attention_mask=mask).logits
    assert torch.equal(model(inputs_embeds=embedded, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("pad_token_id", [None, PAD], ids=["no pad token", "pad token"])
def test_one_row_needs_neither_mask_nor_pad_token(pad_token_id, classifier):
    model, ids = classifier(num_labels=3, pad_token_id=pad_token_id), random_ids(1, 5)
    expected = model(ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.equal(model(ids).logits, expected)
    assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, expected)


def test_several_rows_without_mask_and_pad_token_are_refused(classifier):
    model = classifier(num_labels=3, pad_token_id=None)
    with pytest.raises(ValueError, match=r"each of 2 rows .* pass a 2-D attention_mask, or set config\.pad_token_id"):
        model(random_ids(2, 5))
    with pytest.raises(ValueError, match="nothing tells tokens from padding"):
        classifier(num_labels=3)(inputs_embeds=torch.zeros(2, 5, 32))


def test_a_row_that_is_all_padding_is_refused(classifier):
    model, ids = classifier(num_labels=3), random_ids(2, 5)
    ids[1] = PAD
    with pytest.raises(ValueError, match="A row is all padding"):
        model(ids)
    with pytest.raises(ValueError, match="A row is all padding"):
        model(ids, attention_mask=(ids != PAD).long())


def test_logits_equal_gpt2s_with_the_same_weights(classifier, tiny_model):
    model = classifier(num_labels=3)
    gpt2 = gpt2_with_the_weights_of(tiny_model())
    settings = {"num_labels": 3, "pad_token_id": PAD}
    theirs = GPT2ForSequenceClassification(GPT2Config.from_dict(gpt2.config.to_dict() | settings)).eval()
    theirs.transformer.load_state_dict(gpt2.transformer.state_dict())
    theirs.score.load_state_dict(model.score.state_dict())
    ids, mask = pad_rows([random_ids(length) for length in (4, 9, 6)], "right")
    torch.testing.assert_close(model(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits, **CLOSE)


# Losses


def test_class_ids_give_the_mean_cross_entropy(classifier):
    model, ids, labels = classifier(num_labels=3), random_ids(4, 6), torch.tensor([0, 2, 1, 2])
    outputs = model(ids, labels=labels)
    expected = -outputs.logits.log_softmax(dim=-1)[torch.arange(4), labels].mean()
    torch.testing.assert_close(outputs.loss, expected, **CLOSE)
    assert model.config.problem_type == "single_label_classification"


def test_float_labels_of_several_classes_give_the_mean_binary_cross_entropy(classifier):
    model, ids = classifier(num_labels=3), random_ids(4, 6)
    labels = torch.randint(0, 2, (4, 3)).float()
    outputs = model(ids, labels=labels)
    probabilities = outputs.logits.sigmoid()
    terms = labels * probabilities.log() + (1 - labels) * (1 - probabilities).log()
    torch.testing.assert_close(outputs.loss, -terms.mean(), **CLOSE)
    assert model.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("num_labels", [1, 2])
def test_regression_gives_the_mean_squared_error(num_labels, classifier):
    model = classifier(num_labels=num_labels, problem_type="regression" if num_labels > 1 else None)
    ids, labels = random_ids(4, 6), torch.randn(4, num_labels)
    outputs = model(ids, labels=labels)
    torch.testing.assert_close(outputs.loss, (outputs.logits - labels).square().mean(), **CLOSE)
    assert model.config.problem_type == "regression"


def test_each_token_is_labelled_and_uncounted_ones_are_left_out(classifier):
    model = classifier(GPTScratchForTokenClassification, num_labels=5)
    ids, labels = random_ids(2, 6), torch.randint(0, 5, (2, 6))
    labels[0, 2:5] = -100
    outputs = model(ids, labels=labels)
    hidden_states = model.model(ids).last_hidden_state
    torch.testing.assert_close(outputs.logits, model.score(hidden_states), **CLOSE)
    log_probabilities = outputs.logits.log_softmax(dim=-1)
    terms = [-log_probabilities[row, column, labels[row, column]] for row, column in (labels != -100).nonzero()]
    assert len(terms) == 9
    torch.testing.assert_close(outputs.loss, torch.stack(terms).mean(), **CLOSE)


@pytest.mark.parametrize("head", HEADS)
def test_classifier_dropout_is_on_in_training_only(head, classifier):
    ids = random_ids(2, 6)
    model = classifier(head, classifier_dropout=0.5)
    expected = classifier(head)(ids).logits
    assert torch.equal(model(ids).logits, expected)
    assert (model.train()(ids).logits - expected).abs().max() > 0.01


class Rows(torch.utils.data.Dataset):
    """Four rows with labels, each a class or one label a token."""

    def __init__(self, per_token: bool):
        self.ids = random_ids(4, 6)
        self.labels = torch.randint(0, 3, (4, 6) if per_token else (4,))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


@pytest.mark.parametrize("head", HEADS)
def test_accumulated_micro_batches_train_like_the_whole_batch(head, classifier, tmp_path):
    rows = Rows(per_token=head is GPTScratchForTokenClassification)
    weights = []
    for micro_batch, accumulation in ((4, 1), (1, 4)):
        model = classifier(head, num_labels=3)
        args = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        )
        Trainer(model, args, train_dataset=rows).train()
        weights.append(model.state_dict())
    moved = (weights[0]["score.weight"] - classifier(head, num_labels=3).score.weight).abs().max()
    assert moved > 1e-3
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
