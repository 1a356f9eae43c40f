"""Attention: its implementations give the same numbers, and get every keyword."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from tests.modeling.comparison import CLOSE, pack, random_ids


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_changing_a_token_leaves_earlier_logits_unchanged(implementation, tiny_model):
    model = tiny_model()
    model.set_attn_implementation(implementation)
    input_ids = random_ids(1, 16)
    changed = input_ids.clone()
    changed[0, 9] = (changed[0, 9] + 1) % 128
    before, after = model(input_ids).logits[0], model(changed).logits[0]
    assert torch.equal(before[:9], after[:9])  # hidden positions have a weight of exactly 0
    assert ((before[9:] - after[9:]).abs().amax(dim=1) > 1e-3).all()


def varied_inputs(case: str) -> dict:
    input_ids = random_ids(2, 12)
    left, right = torch.ones_like(input_ids), torch.ones_like(input_ids)
    left[0, :5], right[1, 8:] = 0, 0
    return {
        "plain": {"input_ids": input_ids},
        "left padding": {"input_ids": input_ids, "attention_mask": left},
        "right padding": {"input_ids": input_ids, "attention_mask": right},
        "packed": {"input_ids": input_ids, "position_ids": pack([5, 7]).expand(2, -1)},
    }[case]


CASES = ["plain", "left padding", "right padding", "packed"]


def attend_without_padding(
    module, query, key, value, attention_mask, scaling, position_ids, dropout=0.0, **kwargs
) -> tuple[torch.Tensor, None]:
    """Attention as flash kernels do it: each document by itself, found by a 2-D mask or by restarting positions."""
    batch_size, _, query_length, _ = query.shape
    past_length = key.shape[2] - query_length
    mixed = torch.zeros_like(query)
    for row in range(batch_size):
        if attention_mask is not None:
            assert attention_mask.shape == (batch_size, key.shape[2])
            documents = torch.where(attention_mask[row].bool(), 0, -1)
        elif past_length:
            documents = torch.zeros(key.shape[2])
        else:
            documents = (position_ids.expand(batch_size, -1)[row] == 0).cumsum(dim=0)
        for document in documents[documents >= 0].unique():
            columns = (documents == document).nonzero()[:, 0]
            rows = columns[columns >= past_length] - past_length
            mixed[row, :, rows] = F.scaled_dot_product_attention(
                query[row, :, rows],
                key[row, :, columns],
                value[row, :, columns],
                attn_mask=columns[None] <= rows[:, None] + past_length,
                scale=scaling,
            )
    return mixed.transpose(1, 2), None


@pytest.fixture
def _implementations_of_others(monkeypatch):
    """Registers, through the library's two interfaces, a function with flash's 2-D masks and one with eager's 4-D."""
    monkeypatch.setattr(AttentionInterface, "_global_mapping", dict(AttentionInterface._global_mapping))
    monkeypatch.setattr(AttentionMaskInterface, "_global_mapping", dict(AttentionMaskInterface._global_mapping))
    AttentionInterface.register("unpadded", attend_without_padding)
    AttentionMaskInterface.register("unpadded", ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])

    def softmax_in_double(module, query, key, value, attention_mask, scaling, **kwargs):
        scores = query.double() @ key.double().transpose(2, 3) * scaling + attention_mask
        return (scores.softmax(dim=-1) @ value.double()).to(query.dtype).transpose(1, 2), None

    AttentionInterface.register("softmax_in_double", softmax_in_double)
    AttentionMaskInterface.register("softmax_in_double", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


@torch.no_grad()
@pytest.mark.usefixtures("_implementations_of_others")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("implementation", ["eager", "flex_attention", "unpadded", "softmax_in_double"])
def test_every_implementation_equals_sdpa(implementation, case, tiny_model):
    model, inputs = tiny_model(), varied_inputs(case)
    assert model.config._attn_implementation == "sdpa"
    expected = model(**inputs).logits
    model.set_attn_implementation(implementation)
    assert model.config._attn_implementation == implementation
    # Where it is compiled, flex attention takes seconds and a C++ compiler; its Python form computes the same.
    with torch.compiler.set_stance("force_eager"):
        logits = model(**inputs).logits
    seen = inputs.get("attention_mask", torch.ones(2, 12)).bool()
    torch.testing.assert_close(logits[seen], expected[seen], **CLOSE)


@torch.no_grad()
@pytest.mark.slow  # compiles for about 8 s
def test_compiled_flex_attention_equals_sdpa(tiny_model):
    model, inputs = tiny_model(), varied_inputs("left padding")
    seen = inputs["attention_mask"].bool()
    expected = model(**inputs).logits[seen]
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(model(**inputs).logits[seen], expected, **CLOSE)


@torch.no_grad()
@pytest.mark.usefixtures("_implementations_of_others")
@pytest.mark.parametrize("implementation", ["eager", "flex_attention", "unpadded", "softmax_in_double"])
def test_every_implementation_generates_the_same_tokens(implementation, tiny_model):
    model, inputs = tiny_model(pad_token_id=0), varied_inputs("left padding")
    options = {"max_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, **options)
    model.set_attn_implementation(implementation)
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(model.generate(**inputs, **options), expected)


@torch.no_grad()
@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("implementation", "is_available"),
    [("flash_attention_2", is_flash_attn_2_available), ("flash_attention_3", is_flash_attn_3_available)],
)
def test_flash_attention_equals_sdpa(implementation, is_available, case, tiny_model):
    if not is_available():
        pytest.skip(f"{implementation} is not installed, or there is no GPU for it")
    model = tiny_model().to("cuda", torch.bfloat16)
    inputs = {name: tensor.cuda() for name, tensor in varied_inputs(case).items()}
    seen = inputs.get("attention_mask", torch.ones(2, 12)).bool()
    expected = tiny_model()(**{name: tensor.cpu() for name, tensor in inputs.items()}).logits[seen.cpu()]
    error = (model(**inputs).logits[seen].float().cpu() - expected).norm()
    model.set_attn_implementation(implementation)
    flash_error = (model(**inputs).logits[seen].float().cpu() - expected).norm()
    # Both round to 8 bits at every step; neither is the better one.
    assert flash_error <= error + 2**-6 * expected.norm()


def test_attention_functions_of_others_get_every_keyword(tiny_model, monkeypatch):
    calls = []

    def spy(*args, **kwargs):
        calls.append(kwargs)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](*args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "spy", spy)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, "spy", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model, input_ids = tiny_model(), random_ids(1, 6)
    expected = model(input_ids).logits
    model.set_attn_implementation("spy")
    logits = model(input_ids, cu_seq_lens_q=torch.tensor([0, 6]), max_length_q=6).logits
    assert torch.equal(logits, expected)
    assert len(calls) == 2
    for call in calls:  # what packed and paged attention read
        assert call["cu_seq_lens_q"].tolist() == [0, 6]
        assert call["max_length_q"] == 6
        assert call["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_whole_model_takes_an_implementation_when_built_and_when_loaded(tiny_model, tmp_path):
    model, input_ids = tiny_model(), random_ids(1, 6)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    built = type(model)._from_config(model.config, attn_implementation="eager")
    for other in (loaded, built):
        assert other.config._attn_implementation == "eager"
        assert len(other(input_ids, output_attentions=True).attentions) == 2


def test_an_unknown_implementation_is_refused(tiny_model):
    with pytest.raises(ValueError, match="no_such_attention"):
        tiny_model().set_attn_implementation("no_such_attention")
