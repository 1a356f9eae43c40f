"""The architectures of the sources, written from their descriptions and run as slowly as is clear."""

import torch
from torch import nn


class BookNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        centered = x - x.mean(-1, keepdim=True)
        return self.scale * centered * (centered.square().mean(-1, keepdim=True) + 1e-5).rsqrt() + self.shift


class BookAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, length = config["emb_dim"], config["context_length"]
        self.num_heads = config["n_heads"]
        self.W_query = nn.Linear(width, width, bias=config["qkv_bias"])
        self.W_key = nn.Linear(width, width, bias=config["qkv_bias"])
        self.W_value = nn.Linear(width, width, bias=config["qkv_bias"])
        self.out_proj = nn.Linear(width, width)
        self.register_buffer("mask", torch.ones(length, length).triu(1))

    def forward(self, x):
        length, head_size = x.shape[1], x.shape[2] // self.num_heads
        outputs = []
        for head in range(self.num_heads):  # one after the other: slow, and no reshaping that could be wrong
            part = slice(head * head_size, (head + 1) * head_size)
            query, key, value = self.W_query(x)[..., part], self.W_key(x)[..., part], self.W_value(x)[..., part]
            scores = torch.einsum("bqd,bkd->bqk", query, key) / head_size**0.5
            scores = scores.masked_fill(self.mask[:length, :length].bool(), -torch.inf)
            outputs.append(scores.softmax(-1) @ value)
        return self.out_proj(torch.cat(outputs, dim=-1))


class BookMLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.layers(x)


class BookBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.att = BookAttention(config)
        self.ff = BookMLP(config["emb_dim"])
        self.norm1 = BookNorm(config["emb_dim"])
        self.norm2 = BookNorm(config["emb_dim"])

    def forward(self, x):
        x = x + self.att(self.norm1(x))
        return x + self.ff(self.norm2(x))


class BookModel(nn.Module):
    """The source's architecture, without dropout."""

    def __init__(self, config):
        super().__init__()
        self.tok_emb = nn.Embedding(config["vocab_size"], config["emb_dim"])
        self.pos_emb = nn.Embedding(config["context_length"], config["emb_dim"])
        self.trf_blocks = nn.Sequential(*[BookBlock(config) for _ in range(config["n_layers"])])
        self.final_norm = BookNorm(config["emb_dim"])
        self.out_head = nn.Linear(config["emb_dim"], config["vocab_size"], bias=False)
        if config.get("tie_weights"):
            self.out_head.weight = self.tok_emb.weight

    def forward(self, input_ids):
        x = self.tok_emb(input_ids) + self.pos_emb.weight[: input_ids.shape[1]]
        return self.out_head(self.final_norm(self.trf_blocks(x)))


class FusedAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config["n_embd"]
        self.num_heads = config["n_head"]
        self.c_attn = nn.Linear(width, 3 * width, bias=config["bias"])
        self.c_proj = nn.Linear(width, width, bias=config["bias"])

    def forward(self, x):
        (_, length, width), head_size = x.shape, x.shape[2] // self.num_heads
        hidden = torch.ones(length, length).triu(1).bool()
        outputs = []
        for head in range(self.num_heads):
            start = head * head_size
            query, key, value = (
                self.c_attn(x)[..., part * width + start : part * width + start + head_size] for part in range(3)
            )
            scores = torch.einsum("bqd,bkd->bqk", query, key) / head_size**0.5
            outputs.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value)
        return self.c_proj(torch.cat(outputs, dim=-1))


class FusedNorm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config["n_embd"]))
        self.bias = nn.Parameter(torch.zeros(config["n_embd"])) if config["bias"] else None
        self.epsilon = config["epsilon"]

    def forward(self, x):
        centered = x - x.mean(-1, keepdim=True)
        scaled = self.weight * centered * (centered.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()
        return scaled if self.bias is None else scaled + self.bias


class FusedMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        inner = config["inner"] or 4 * config["n_embd"]
        self.c_fc = nn.Linear(config["n_embd"], inner, bias=config["bias"])
        self.c_proj = nn.Linear(inner, config["n_embd"], bias=config["bias"])
        self.activation = config["activation"]

    def forward(self, x):
        return self.c_proj(self.activation(self.c_fc(x)))


class FusedBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1, self.attn = FusedNorm(config), FusedAttention(config)
        self.ln_2, self.mlp = FusedNorm(config), FusedMLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class FusedModel(nn.Module):
    """nanoGPT's architecture without dropout, and GPT-2's: query, key and value come from one layer."""

    def __init__(self, config):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config["vocab_size"], config["n_embd"]),
                "wpe": nn.Embedding(config["block_size"], config["n_embd"]),
                "h": nn.ModuleList([FusedBlock(config) for _ in range(config["n_layer"])]),
                "ln_f": FusedNorm(config),
            }
        )
        self.lm_head = nn.Linear(config["n_embd"], config["vocab_size"], bias=False)
        if config["tied"]:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, input_ids):
        x = self.transformer.wte(input_ids) + self.transformer.wpe.weight[: input_ids.shape[1]]
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))
