"""The model's arithmetic per token, of which a device's rate is the limit."""

from modeling_gpt_scratch import GPTScratchConfig

from .memory import block_matrix_parameters


def model_flops_per_token(config: GPTScratchConfig) -> float:
    """Floating-point operations of one training token, forward and backward, by the usual estimate: 6N + 12·L·C·T.

    N are the weights of matrix products: those of the blocks and of the head, but no embedding (it is looked up). The
    second term is attention over T = max_position_embeddings tokens, not halved for causality. Recomputed activations
    do not count. This is the numerator of "model FLOPs utilization", MFU.

    Source: PaLM (arXiv:2204.02311), appendix B; nanoGPT's `estimate_mfu` counts biases and norms too (0.1 %).
    """
    layers, width = config.num_hidden_layers, config.hidden_size
    weights = block_matrix_parameters(config) + width * config.vocab_size
    return 6 * weights + 12 * layers * width * config.max_position_embeddings
