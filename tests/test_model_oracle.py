"""The paper, written once more as plain loops over single numbers, against the model (float64).

Written from the text of arXiv 2112.04426 (equations 3 to 7, listing 1), not from retro_core/model.py.
"""

import math

import numpy as np
import pytest
import torch
from tiny_models import M, tiny_input, tiny_model

from retro_core.model import Retro

CLOSE = {"rtol": 0, "atol": 1e-9}


class Weights:
    """Matrices of a model by name, as numpy."""

    def __init__(self, model: Retro, prefix: str = ""):
        self.values = {
            name.removeprefix(prefix): value.detach().numpy()
            for name, value in model.state_dict().items()
            if name.startswith(prefix)
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[f"{name}.weight"] if f"{name}.weight" in self.values else self.values[name]

    def __contains__(self, start: str) -> bool:
        return any(name.startswith(start) for name in self.values)


def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """RMSNorm of one vector."""
    root = math.sqrt(sum(float(value) ** 2 for value in x) / len(x))
    return np.array([s * value / (root + 1e-8) for s, value in zip(scale, x, strict=True)])


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def feed_forward(x: np.ndarray, w: Weights, at: str) -> np.ndarray:
    normed = norm(x, w[f"{at}.layer_norm.scale"])
    gate, linear = w[f"{at}.wi_0"] @ normed, w[f"{at}.wi_1"] @ normed
    return x + w[f"{at}.wo"] @ np.array([gelu(g) * v for g, v in zip(gate, linear, strict=True)])


def table_row(distance: int, first: int, rows: int) -> int:
    """Row of a position table that starts at distance `first`; both ends take what is beyond."""
    return min(max(distance - first, 0), rows - 1)


def attend(query: np.ndarray, keys: list, values: list, bias: list, heads: int) -> np.ndarray:
    """One query over a list of keys; bias[key][head]. Without keys nothing is read."""
    width = len(query) // heads
    out = np.zeros(len(query))
    if not keys:
        return out
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        dots = [float(query[part] @ key[part]) for key in keys]
        scores = [dot / math.sqrt(width) + b[h] for dot, b in zip(dots, bias, strict=True)]
        top = max(scores)
        powers = [math.exp(score - top) for score in scores]
        for power, value in zip(powers, values, strict=True):
            out[part] += power / sum(powers) * value[part]
    return out


def self_attention(xs: list, visible: list, w: Weights, at: str, heads: int, causal: bool) -> list:
    """visible[i]: token i may be read."""
    table = w[f"{at}.multi_head_attention.positional_bias.relative_attention_bias"]
    rows = len(table)
    # A bidirectional table has as many rows to the left as to the right (one less if the number is even).
    first = 1 - rows if causal else -((rows - 1) // 2)
    q, k, v = np.split(w[f"{at}.qkv_proj"] @ np.array([norm(x, w[f"{at}.ln.scale"]) for x in xs]).T, 3)
    result = []
    for i, x in enumerate(xs):
        seen = [j for j in range(i + 1 if causal else len(xs)) if visible[j]]
        bias = [table[table_row(j - i, first, rows)] for j in seen]
        read = attend(q[:, i], [k[:, j] for j in seen], [v[:, j] for j in seen], bias, heads)
        result.append(x + w[f"{at}.multi_head_attention.final_proj"] @ read)
    return result


def keys_and_values(x: np.ndarray, w: Weights, at: str) -> tuple[np.ndarray, np.ndarray]:
    return np.split(w[f"{at}.kv_proj"] @ norm(x, w[f"{at}.kv_ln.scale"]), 2)


def encode(
    neighbour: np.ndarray, visible: list, chunk: list, asking: list, w: Weights, layers: int, heads: int
) -> list:
    """One neighbour of one chunk: ids of r tokens, states of the m tokens that asked -> r states."""
    xs = [w["base.encoder.enc_embs"][token] for token in neighbour]
    for layer in range(layers):
        at = f"base.encoder.layers.{layer}"
        xs = self_attention(xs, visible, w, f"{at}.0", heads, causal=False)
        if f"{at}.1." in w:
            table = w[f"{at}.1.multi_head_attention.positional_bias.relative_attention_bias"]
            asked = [i for i in range(len(chunk)) if asking[i]]
            pairs = [keys_and_values(chunk[i], w, f"{at}.1") for i in asked]
            read = []
            for place, x in enumerate(xs):
                # d(i', i) = i' - i, from -(m-1) on
                bias = [table[table_row(place - i, -(len(chunk) - 1), len(table))] for i in asked]
                query = w[f"{at}.1.q_proj"] @ norm(x, w[f"{at}.1.ln.scale"])
                mixed = attend(query, [k for k, _ in pairs], [v for _, v in pairs], bias, heads)
                read.append(w[f"{at}.1.multi_head_attention.final_proj"] @ mixed)
            xs = [x + added for x, added in zip(xs, read, strict=True)]
        xs = [feed_forward(x, w, f"{at}.2") for x in xs]
    return xs


def chunked_cross_attention(
    H: np.ndarray, E: np.ndarray, visible: np.ndarray, w: Weights, at: str, heads: int
) -> np.ndarray:
    """Listing 1. H (n, d), E (l, k, r, d'), visible (l, k, r) -> (n, d), to be added to H."""
    n, d = H.shape
    chunks, m = len(E), M
    table = w[f"{at}.multi_head_attention.positional_bias.relative_attention_bias"]
    last = 2 * m - 2  # the largest i - i' + m - 1; the table ends with it
    attending = np.vstack([H[m - 1 :], np.zeros((m - 1 + m, d))])[: chunks * m].reshape(chunks, m, d)
    written = np.zeros((chunks, m, d))
    for u in range(chunks):
        pairs = {
            (j, place): keys_and_values(E[u, j, place], w, at)
            for j in range(E.shape[1])
            for place in range(E.shape[2])
            if visible[u, j, place]
        }
        for i in range(m):
            query = w[f"{at}.q_proj"] @ norm(attending[u, i], w[f"{at}.ln.scale"])
            # One softmax over all neighbours; the distance does not depend on which neighbour it is.
            first = last - len(table) + 1
            bias = [table[table_row(i - place + m - 1, first, len(table))] for _, place in pairs]
            read = attend(query, [k for k, _ in pairs.values()], [v for _, v in pairs.values()], bias, heads)
            written[u, i] = w[f"{at}.multi_head_attention.final_proj"] @ read
    flat = np.vstack([np.zeros((m - 1, d)), written.reshape(chunks * m, d)])[:n]
    return np.vstack([flat, np.zeros((n - len(flat), d))])


def forward(model: Retro, ids: np.ndarray, neighbours: np.ndarray | None) -> np.ndarray:
    """ids (n,), neighbours (l, k, r) -> logits (n, v)"""
    c, w, layers = model.config, Weights(model), model.config.enc_num_layers
    visible = [token != c.pad_token_idx for token in ids]
    xs = [w["base.dec_embs"][token] for token in ids]
    encoded = None
    for layer in range(c.dec_num_layers):
        at = f"base.decoder.{layer}"
        xs = self_attention(xs, visible, w, f"{at}.0", c.dec_num_heads, causal=True)
        if f"{at}.1." in w and neighbours is not None:
            if encoded is None:  # at the first layer with CCA, after its self-attention
                encoded = np.zeros((*neighbours.shape, c.enc_hidden_dim))
                for u in range(len(neighbours)):
                    chunk = slice(u * M, (u + 1) * M)
                    for j, neighbour in enumerate(neighbours[u]):
                        present = [token != c.pad_token_idx for token in neighbour]
                        encoded[u, j] = encode(
                            neighbour, present, xs[chunk], visible[chunk], w, layers, c.enc_num_heads
                        )
            mask = neighbours != c.pad_token_idx
            written = chunked_cross_attention(np.array(xs), encoded, mask, w, f"{at}.1", c.dec_num_heads)
            xs = [x + added for x, added in zip(xs, written, strict=True)]
        xs = [feed_forward(x, w, f"{at}.2") for x in xs]
    return np.array([w["lm_head"] @ norm(x, w["base.final_layer_norm.scale"]) for x in xs])


@pytest.mark.parametrize("n", [3, 5, 6, 8, 10])
@pytest.mark.parametrize("buckets", [2, 8, 13], ids=lambda b: f"{b} buckets")
def test_cca_is_listing_1(n, buckets):
    """n: one chunk just complete, the last one incomplete, complete, with two more, with one more;
    buckets: fewer, as many as, more than there are distances."""
    model = tiny_model(dec_cca_pos_bias_num_buckets=buckets)
    cca, c = model.base.decoder[1]["1"], model.config
    random = torch.Generator().manual_seed(n)
    H = torch.randn(1, n, c.dec_hidden_dim, generator=random, dtype=torch.float64)
    E = torch.randn(1, n // M, 2, 7, c.enc_hidden_dim, generator=random, dtype=torch.float64)
    visible = torch.rand(1, n // M, 2, 7, generator=random) < 0.7
    visible[0, 0, 0], visible[0, 0, 1, 3] = False, True
    with torch.no_grad():
        keys, values = cca.chunk_keys_and_values(E)
        written, _ = cca(H, keys, values, visible.flatten(2), cca.window_bias(2, 7))
    weights = Weights(model, "base.decoder.1.1.")
    weights.values = {f"cca.{name}": value for name, value in weights.values.items()}
    expected = chunked_cross_attention(
        H[0].numpy(), E[0].numpy(), visible[0].numpy(), weights, "cca", c.dec_num_heads
    )
    np.testing.assert_allclose(written[0], expected, **CLOSE)
    assert np.abs(expected[M - 1 :]).min() > 1e-6 and not expected[: M - 1].any()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"enc_ca_layers": [1], "dec_cca_layers": [0, 2]},
        {"enc_sa_pos_bias_num_buckets": 2, "enc_ca_pos_bias_num_buckets": 3,
         "dec_sa_pos_bias_num_buckets": 31, "dec_cca_pos_bias_num_buckets": 29},
        {"tie_embeddings": True, "enc_share_decoder_embs": True, "enc_hidden_dim": 13},
    ],
    ids=["usual", "other layers", "other tables", "shared embeddings"],
)  # fmt: skip
def test_the_whole_model_is_the_plain_loops(changes):
    model = tiny_model(**changes)
    ids, neighbours = tiny_input(n=11)
    ids[0, :2] = 0  # a short prompt is padded on the left
    neighbours[0, 0, 1] = 0  # a missing neighbour
    neighbours[0, 1] = 0  # a chunk without neighbours
    neighbours[0, 2, 0, 4:] = 0  # a neighbour at the end of its document
    with torch.no_grad():
        on, off = model(ids, neighbours).logits[0], model(ids).logits[0]
    np.testing.assert_allclose(on, forward(model, ids[0].numpy(), neighbours[0].numpy()), **CLOSE)
    np.testing.assert_allclose(off, forward(model, ids[0].numpy(), None), **CLOSE)
    assert (on - off).abs().max() > 0.01
