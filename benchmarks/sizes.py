"""What is compared: two sizes of RETRO, and what a training step and a new token of them cost at least.

a   the reference implementation's default, 111.7 M parameters
b   about 30 M without embeddings, the preset base-30m

Products of matrices are the cost; m is the chunk size, n the length, r the length of a neighbour. All of
attention counts, its causal half too, as every implementation here computes it whole.
"""

from dataclasses import dataclass

from retro_core.config import PAPER, RetroConfig
from retro_core.presets import preset

VOCABULARY = 28996


@dataclass(frozen=True)
class Workload:
    """Of a training step: rows windows of `length` tokens. Of generation: a prompt and new tokens."""

    rows: int = 4
    length: int = 512
    neighbours: int = 2
    neighbour_length: int = 128
    prompt: int = 64
    new_tokens: int = 256
    long_tokens: int = 1024

    @classmethod
    def quick(cls, config: RetroConfig) -> "Workload":
        m = config.chunk_size
        return cls(2, 4 * m, 2, 2 * m, m, 3 * m, 12 * m)


def sizes(quick: bool = False, dropout: float = 0.0) -> dict[str, RetroConfig]:
    if quick:
        return {"toy": toy(dropout)}
    found = {"a": preset("reference-default", VOCABULARY), "b": preset("base-30m", VOCABULARY)}
    return {name: RetroConfig(**{**config.to_dict(), "dropout_p": dropout}) for name, config in found.items()}


def toy(dropout: float = 0.0) -> RetroConfig:
    """A model of a moment, different in every width."""
    return RetroConfig(
        mode=PAPER, num_embeddings=211, chunk_size=8, dropout_p=dropout,
        enc_hidden_dim=24, enc_num_layers=2, enc_ffn_dim=40, enc_num_heads=2, enc_qkv_dim=64,
        enc_ca_layers=[1],
        dec_hidden_dim=32, dec_num_layers=3, dec_ffn_dim=48, dec_num_heads=4, dec_qkv_dim=256,
        dec_cca_layers=[1, 2],
    )  # fmt: skip


def forward_flops(config: RetroConfig, work: Workload) -> dict[str, int]:
    """Floating-point operations of one forward pass with loss, by part. A multiplication and its addition are
    two; `work.length` is a multiple of the chunk size. A training step is three times as much: each product
    of the forward pass has two in the backward pass, one for each factor."""
    c, tokens = config, work.rows * work.length
    m, d, e, q, p = c.chunk_size, c.dec_hidden_dim, c.enc_hidden_dim, c.dec_qkv_dim, c.enc_qkv_dim
    chunks = tokens // m
    read = chunks * work.neighbours * work.neighbour_length  # tokens of all neighbours
    readers, asked = len(c.dec_cca_layers), len(c.enc_ca_layers)
    encoder = c.enc_num_layers * (read * (4 * e * p + 3 * e * c.enc_ffn_dim)) if readers else 0
    if readers:
        encoder += asked * (read * 2 * e * p + tokens * 2 * d * p)
    in_encoder = read * p * (c.enc_num_layers * work.neighbour_length + asked * m) if readers else 0
    products = {
        "encoder": encoder,
        "decoder": c.dec_num_layers * tokens * (4 * d * q + 3 * d * c.dec_ffn_dim),
        "chunked cross-attention": readers * (tokens * 2 * d * q + read * 2 * e * q),
        "attention scores and sums": 2 * (
            in_encoder
            + c.dec_num_layers * tokens * q * work.length
            + readers * tokens * q * work.neighbours * work.neighbour_length
        ),
        "output layer": tokens * d * c.num_embeddings,
    }  # fmt: skip
    return {part: 2 * count for part, count in products.items()}


def weights_per_token(config: RetroConfig) -> int:
    """Numbers of the model that a new token has to read: the decoder's matrices and the output layer. Keys
    and values of CCA are computed once per chunk, so what makes them does not count."""
    c = config
    d, q = c.dec_hidden_dim, c.dec_qkv_dim
    layers = c.dec_num_layers * (4 * d * q + 3 * d * c.dec_ffn_dim) + len(c.dec_cca_layers) * 2 * d * q
    return layers + d * c.num_embeddings


def gpt2_inner(config: RetroConfig) -> int:
    """Width of GPT-2's feed-forward that makes a GPT-2 of the same width and depth read as many weights per
    token: two matrices in place of three, and a share of CCA."""
    d, layers = config.dec_hidden_dim, config.dec_num_layers
    rest = weights_per_token(config) - d * config.num_embeddings - layers * 4 * d * d
    return round(rest / (2 * layers * d))
