"""What a run will need, before it begins: parameters and memory, by formulas."""

from dataclasses import dataclass

from modeling_gpt_scratch import GPTScratchConfig
from modeling_gpt_scratch.loss_gpt_scratch import LOGITS_PER_CHUNK

from ..optimization.muon import SCRATCH, STACK_ELEMENTS

FP32, BF16 = 4, 2  # bytes
ADAMW_STATE = 2 * FP32  # two moving averages for each parameter
MUON_STATE = FP32  # one


def parameter_count(config: GPTScratchConfig) -> int:
    """Parameters of the model, a tied head counted once."""
    width, inner = config.hidden_size, config.intermediate_size
    attention = 4 * width**2 + width + (3 * width if config.qkv_bias else 0)
    mlp = 2 * width * inner + inner + width
    norms = 2 * 2 * width
    embeddings = (config.vocab_size + config.max_position_embeddings) * width
    head = 0 if config.tie_word_embeddings else config.vocab_size * width
    return embeddings + config.num_hidden_layers * (attention + mlp + norms) + 2 * width + head


def block_matrix_parameters(config: GPTScratchConfig) -> int:
    """Parameters of the blocks' matrices: those that Muon trains."""
    return config.num_hidden_layers * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)


@dataclass(frozen=True)
class Memory:
    """Bytes of device memory at the largest moment of a step: the end of its forward pass, or the products of Muon.

    What the process takes by itself (Python, the device's libraries: some hundred MiB) is not counted.
    """

    weights: int
    gradients: int
    optimizer_state: int
    activations: int
    head: int  # the loss: one chunk of logits, and the gradients that are computed with it
    products: int  # Muon's, when activations and logits have gone

    @property
    def total(self) -> int:
        passing = max(self.activations + self.head, self.products)
        return self.weights + self.gradients + self.optimizer_state + passing


def estimate_memory(
    config: GPTScratchConfig,
    micro_batch: int,
    *,
    autocast: bool,
    muon: bool,
    gradient_checkpointing: bool = False,
    scores_in_memory: bool = False,
    mask_bytes: int = FP32,
) -> Memory:
    """An estimate from what PyTorch keeps for the backward pass, within 4 % of what is allocated (docs/recipes.md).

    Args:
        config: the model.
        micro_batch: windows of `max_position_embeddings` tokens in one forward pass.
        autocast: whether matrix products are made in 16 bits; weights, residual stream and gradients stay in fp32.
        muon: whether Muon trains the blocks' matrices; AdamW trains the others.
        gradient_checkpointing: only a block's input is kept, and one block at a time recomputed.
        scores_in_memory: whether attention keeps its weights, as without a fused kernel (on CPU: with dropout).
        mask_bytes: for each value that dropout has dropped or kept: as the value on CPU, 1 byte on GPUs.
    """
    width, inner, length = config.hidden_size, config.intermediate_size, config.max_position_embeddings
    tokens = micro_batch * length
    parameters = parameter_count(config)
    matrices = block_matrix_parameters(config)

    # What each layer of a block keeps, in bytes for each token. Under autocast the three projections make three 16-bit
    # copies of their common input; norms keep their fp32 input, and their output only where nobody casts it.
    if autocast:
        attention = FP32 * width + BF16 * (3 + 3 + 1) * width
        mlp = (FP32 + BF16) * width + BF16 * 2 * inner
    else:
        attention = FP32 * (2 + 3 + 1) * width
        mlp = FP32 * 2 * width + FP32 * 2 * inner
    block = attention + mlp
    if config.residual_dropout:
        block += 2 * mask_bytes * width
    if scores_in_memory:  # as fp32: before and after dropout, and the mask; and scaled copies of 16-bit projections
        block += config.num_attention_heads * length * FP32 * (3 if config.attention_dropout else 1)
        block += BF16 * 3 * width if autocast else 0
    rest = FP32 * 2 * width + (mask_bytes * width if config.embedding_dropout else 0)  # the last norm: input, output
    casts = BF16 * (matrices + config.vocab_size * width) if autocast else 0

    rows = min(tokens, max(1, LOGITS_PER_CHUNK // config.vocab_size))
    logits = rows * config.vocab_size * (FP32 + BF16 if autocast else FP32)
    head_gradients = FP32 * width * (config.vocab_size + tokens)

    blocks = tokens * config.num_hidden_layers * (FP32 * width if gradient_checkpointing else block)
    # A block is recomputed when the logits have gone.
    recomputed = max(0, tokens * block - logits) if gradient_checkpointing else 0

    return Memory(
        weights=FP32 * parameters,
        gradients=FP32 * parameters,
        optimizer_state=ADAMW_STATE * parameters - ((ADAMW_STATE - MUON_STATE) * matrices if muon else 0),
        activations=blocks + recomputed + tokens * rest + casts,
        head=max(logits, head_gradients) + head_gradients,  # `backward` scales a copy of them when the logits have gone
        products=SCRATCH * min(matrices, max(STACK_ELEMENTS, width * inner)) if muon else 0,
    )
