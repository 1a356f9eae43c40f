"""`generate` with candidates of an assistant and with many requests at once: the same tokens, in fewer calls."""

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from tests.modeling.comparison import GREEDY, generate, gpt2_with_the_weights_of, random_ids

# Candidates from elsewhere, checked several at a time


def counted_calls(model) -> list[int]:
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_an_assistant_of_another_size_leaves_the_tokens_as_they_are(twins, tiny_model, prompt):
    model, gpt2 = twins
    assistant = tiny_model(pad_token_id=0, num_hidden_layers=1)
    tokens = generate(model, prompt, assistant_model=assistant)
    assert torch.equal(tokens, generate(model, prompt))
    options = {"do_sample": True, "temperature": 1.5}
    sampled = generate(model, prompt, assistant_model=assistant, **options)
    gpt2_assistant = gpt2_with_the_weights_of(assistant)
    assert torch.equal(sampled, generate(gpt2, prompt, assistant_model=gpt2_assistant, **options))
    assert not torch.equal(sampled, tokens)


def test_gpt2_and_this_model_can_assist_each_other(twins, prompt):
    model, gpt2 = twins
    expected = generate(model, prompt)
    assert torch.equal(generate(model, prompt, assistant_model=gpt2), expected)
    assert torch.equal(generate(gpt2, prompt, assistant_model=model), expected)


def test_a_good_assistant_saves_calls(tiny_model, prompt):
    model, assistant = tiny_model(pad_token_id=0), tiny_model(pad_token_id=0)
    expected = generate(model, prompt)
    calls = counted_calls(model)
    assert torch.equal(generate(model, prompt, assistant_model=assistant), expected)
    assert len(calls) < 12


def test_candidates_from_the_prompt_leave_the_tokens_as_they_are_and_save_calls(tiny_model, prompt):
    model = tiny_model(pad_token_id=0)
    text = generate(model, prompt)
    ids = torch.cat([text, text[:, :9]], dim=1)  # the model will say again what followed
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = generate(model, inputs)
    calls = counted_calls(model)
    assert torch.equal(generate(model, inputs, prompt_lookup_num_tokens=4), expected)
    assert len(calls) < 12


# Many requests at once


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "paged|eager"])
def test_continuous_batching_gives_each_request_its_tokens(implementation, tiny_model):
    model = tiny_model(pad_token_id=0)
    lengths = (3, 9, 5, 14)
    requests = [torch.randint(1, 128, (1, length)) for length in lengths]
    requests.append(torch.cat([requests[1], random_ids(1, 2)], dim=1))  # starts like another one
    expected = [
        generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})[0, ids.shape[1] :].tolist()
        for ids in requests
    ]
    model.set_attn_implementation(implementation)
    outputs = model.generate_batch(
        [ids[0].tolist() for ids in requests],
        generation_config=GenerationConfig(**GREEDY, eos_token_id=-1, pad_token_id=0),
        # Too small for all requests at once, so that they wait for each other; and no memory is measured.
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=16, block_size=4, max_batch_tokens=16),
        warmup=False,
        progress_bar=False,
    )
    assert [output.error for output in outputs.values()] == [None] * 5
    assert [output.generated_tokens for output in outputs.values()] == expected
