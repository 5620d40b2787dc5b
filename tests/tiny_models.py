"""Small models and inputs whose sizes are different primes, so that no two axes can be mixed up unseen."""

from typing import Any

import torch
from torch import Tensor

from retro_core.config import RetroConfig
from retro_core.model import Retro

M, K, R = 3, 2, 7
SIZES: dict[str, Any] = {
    "num_embeddings": 23, "chunk_size": M, "dropout_p": 0.0,
    "enc_hidden_dim": 11, "enc_num_layers": 2, "enc_ffn_dim": 17, "enc_num_heads": 2, "enc_qkv_dim": 10,
    "enc_ca_layers": [0, 1], "enc_sa_pos_bias_num_buckets": 5, "enc_ca_pos_bias_num_buckets": 8,
    "dec_hidden_dim": 13, "dec_num_layers": 4, "dec_ffn_dim": 19, "dec_num_heads": 3, "dec_qkv_dim": 21,
    "dec_cca_layers": [1, 3], "dec_sa_pos_bias_num_buckets": 6, "dec_cca_pos_bias_num_buckets": 8,
}  # fmt: skip


def tiny_config(mode: str = "paper", **changes: Any) -> RetroConfig:
    return RetroConfig(**{"mode": mode, **SIZES, **changes})


def tiny_model(mode: str = "paper", seed: int = 0, **changes: Any) -> Retro:
    """In eval mode and float64, every weight random and large enough to matter."""
    model = Retro(tiny_config(mode, **changes)).double().eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.5 * noise)
    return model


def tiny_input(n: int, batch: int = 1, k: int = K, r: int = R, seed: int = 1) -> tuple[Tensor, Tensor]:
    """ids (b, n) and neighbours (b, n // m, k, r), no padding among them."""
    random = torch.Generator().manual_seed(seed)
    vocabulary = SIZES["num_embeddings"]
    ids = torch.randint(1, vocabulary, (batch, n), generator=random)
    return ids, torch.randint(1, vocabulary, (batch, n // M, k, r), generator=random)
