"""The arithmetic behind MFU."""

import pytest
import torch

from modeling_gpt_scratch import GPTScratchConfig
from training.optimization.matmul import measured_peak
from training.planning.flops import model_flops_per_token
from training.run.speed import Speed


def test_small_gpt_2_by_hand():
    # A block has 4 · 768² + 2 · 768 · 3072 = 7,077,888 weights in matrices, the head 768 · 50257 = 38,597,376;
    # attention: 12 · 12 · 768 · 1024 = 113,246,208.
    expected = 6 * (12 * 7_077_888 + 38_597_376) + 113_246_208
    assert expected == 854_438_400
    assert model_flops_per_token(GPTScratchConfig()) == expected


def test_an_untied_head_costs_no_more_than_a_tied_one():
    assert model_flops_per_token(GPTScratchConfig(tie_word_embeddings=False)) == 854_438_400


def test_the_peak_is_positive_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    assert measured_peak(torch.device("cpu"), torch.float32, seconds=0) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_utilization_is_what_the_model_needs_over_what_the_devices_can(tmp_path):
    speed = Speed(tmp_path, "tokens", step_size=8, flops_per_unit=2e9)
    speed.peak_flops = 1e13
    assert speed.utilization(2000)["mfu"] == pytest.approx(0.4)
