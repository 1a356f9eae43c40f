"""What a run will need, against the model itself and against values computed by hand."""

import pytest
import torch

from configuration.pretraining import MODELS, PretrainingRecipe
from modeling_gpt_scratch import GPTScratchConfig, GPTScratchForCausalLM
from training.planning.flops import model_flops_per_token
from training.planning.memory import block_matrix_parameters, estimate_memory, parameter_count


@pytest.mark.parametrize("size", sorted(path.stem for path in MODELS.glob("*.json")))
@pytest.mark.parametrize(
    "changes", [{}, {"qkv_bias": "false"}, {"tie_word_embeddings": "false"}, {"intermediate_size": "96"}], ids=str
)
def test_parameters_are_counted_as_the_model_has_them(size, changes):
    fields = {"model": size, "corpus": "stdlib", "tokens_per_step": "4096", "output_dir": "runs/x"}
    config = PretrainingRecipe.load(None, fields | changes).model
    with torch.device("meta"):
        model = GPTScratchForCausalLM(config)
    assert parameter_count(config) == model.num_parameters()
    matrices = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
    assert block_matrix_parameters(config) == sum(parameter.numel() for parameter in matrices)


def test_operations_of_gpt2_small_by_hand():
    blocks = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    head = 50257 * 768
    attention = 12 * 12 * 768 * 1024
    assert model_flops_per_token(GPTScratchConfig()) == 6 * (blocks + head) + attention == 854_438_400


def test_memory_of_weights_gradients_and_optimizer_by_hand():
    memory = estimate_memory(GPTScratchConfig(), 1, autocast=False, muon=False)
    assert (memory.weights, memory.gradients) == (4 * 124_439_808, 4 * 124_439_808)
    assert memory.optimizer_state == 8 * 124_439_808
    with_muon = estimate_memory(GPTScratchConfig(), 1, autocast=False, muon=True)
    assert with_muon.optimizer_state == 8 * (124_439_808 - 84_934_656) + 4 * 84_934_656
    assert memory.products == 0
    assert memory.total == sum(vars(memory).values())


def test_muons_products_count_where_they_need_more_than_the_forward_pass():
    def estimate(width: int, layers: int, tokens: int):
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "max_position_embeddings": tokens}
        return estimate_memory(GPTScratchConfig(vocab_size=64, **sizes), 1, autocast=False, muon=True)

    short, long = estimate(768, 12, 2), estimate(768, 12, 512)
    assert short.products == long.products == 20 * 2**22  # one stack
    assert short.activations + short.head < short.products < long.activations + long.head
    assert short.total == short.weights + short.gradients + short.optimizer_state + short.products
    assert estimate(24, 1, 2).products == 20 * 12 * 24**2  # all matrices together
    assert estimate(1536, 1, 2).products == 20 * 4 * 1536**2  # a matrix that is larger than a stack may be


def test_memory_of_activations_by_hand():
    config = GPTScratchConfig()
    # 16 values of the width for each layer (the MLP's 2 x 4 among them), and 2 around the last norm.
    assert estimate_memory(config, 3, autocast=False, muon=False).activations == 3 * 1024 * 768 * 4 * (12 * 16 + 2)
    checkpointed = estimate_memory(config, 3, autocast=False, muon=False, gradient_checkpointing=True)
    recomputed = 3 * 1024 * 768 * 4 * 16 - 2**25 // 50257 * 50257 * 4  # when the logits have gone
    assert checkpointed.activations == 3 * 1024 * 768 * 4 * (12 * 1 + 2) + recomputed


def test_memory_of_the_loss_by_hand():
    chunk = 2**25 // 50257 * 50257 * 4
    gradients = 4 * 768 * (50257 + 2 * 1024)
    assert estimate_memory(GPTScratchConfig(), 2, autocast=False, muon=False).head == max(chunk, gradients) + gradients


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable")
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_block_keeps_for_the_backward_pass_what_is_estimated(autocast, dropout, checkpointing):
    def kept_and_estimated(layers: int) -> tuple[int, int]:
        rates = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), dropout)
        config = GPTScratchConfig(
            vocab_size=128,
            hidden_size=128,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=64,
            **rates,
        )
        model = GPTScratchForCausalLM(config).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept = {}

        def remember(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage  # held, so that no address comes twice
            return tensor

        ids = torch.randint(128, (8, 64))
        with (
            torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
        ):
            model(input_ids=ids, shift_labels=ids, use_cache=False, skip_logits=True)
        estimate = estimate_memory(
            config,
            8,
            autocast=autocast,
            muon=False,
            gradient_checkpointing=checkpointing,
            scores_in_memory=dropout > 0,
            mask_bytes=2 if autocast else 4,
        )
        casts = 2 * block_matrix_parameters(config) if autocast and checkpointing else 0  # made anew in each block
        return sum(storage.nbytes() for storage in kept.values()), estimate.activations - casts

    kept, estimated = (three - one for one, three in zip(kept_and_estimated(1), kept_and_estimated(3), strict=True))
    # Not estimated: the statistics of norms and attention, six numbers a token.
    assert estimated == pytest.approx(kept, rel=0.01)
