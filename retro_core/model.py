"""RETRO (Borgeaud et al. 2021, arXiv 2112.04426), the whole network in one file.

Facts of the architecture
- pre-norm residual blocks without biases: RMSNorm, attention with a learned relative position bias, gated
  GELU feed-forward; no absolute positions
- a decoder layer is self-attention, then (in some layers) chunked cross-attention, then feed-forward
- the neighbour encoder is bidirectional within one neighbour and reads the chunk that asked for it: the
  decoder's residual stream at the first layer with CCA, after that layer's self-attention
- chunked cross-attention (CCA): positions u*m+m-1 ... u*m+2m-2 attend to all neighbours of chunk u in one
  softmax over k*r keys; the first m-1 positions attend to nothing
- every CCA layer reads the same encoder output

Two modes share this code and the parameter names of the reference implementation:
- `paper`: scores scaled by 1/sqrt(head width); in CCA every neighbour has the same positions, aligned with
  the chunk that retrieved it (d = i - i' + m - 1); what a cross-attention reads is normalised first; a
  missing key has exactly no weight
- `reference`: its maths to the last detail, so that its checkpoints give its numbers: no scaling,
  positions counted over the concatenated neighbours, additive masks of -10000

Axes: b batch, n tokens, l chunks, m chunk size, k neighbours, r retrieved length, h heads, d width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from indexing.errors import InputError
from indexing.neighbours import Neighbours
from retro_core.cache import DecodingCache, KeysValues
from retro_core.config import REFERENCE, RetroConfig
from retro_core.functions import (
    IGNORED_LABEL,
    attention,
    by_distance,
    cross_entropy_in_pieces,
    gated_feed_forward,
    rms_norm,
)
from retro_core.inputs import check_inputs
from retro_core.reading import Reading, by_neighbour, hides

EMBEDDING_STD = 0.02
_MASKED = -10000.0  # what the reference adds to the score of a hidden key


# ---------------------------------------------------------------------------------------- positions


def linear_buckets(relative: Tensor, num_buckets: int, lowest: int) -> Tensor:
    """One bucket per distance, from `lowest` on; both ends collect what lies beyond."""
    return (relative - lowest).clamp(0, num_buckets - 1)


def lowest_of_range(num_buckets: int, bidirectional: bool) -> int:
    """First distance (key - query) that has its own linear bucket: half to the left and half to the right,
    or everything to the left."""
    if bidirectional:
        return -(num_buckets // 2) - (num_buckets % 2 - 1)
    return 1 - num_buckets


def log_linear_buckets(
    relative: Tensor, num_buckets: int, max_distance: int, bidirectional: bool, num_exact: int | None = None
) -> Tensor:
    """T5's buckets: exact for near distances, logarithmic up to `max_distance`, one beyond.

    relative = key - query. `num_exact` buckets are exact, half of them by default as in T5. The reference
    makes all of them exact, which leaves no logarithmic part; pass the number of buckets of one direction
    to get that.
    """
    offset = torch.zeros_like(relative)
    if bidirectional:
        num_buckets //= 2
        offset = (relative > 0) * num_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = num_buckets // 2 if num_exact is None else min(num_exact, num_buckets)
    if exact == num_buckets:
        return offset + distance.clamp(max=max(exact - 1, 0))
    ratio = torch.log(distance.clamp(min=1).float() / max(exact, 1)) / math.log(max_distance / max(exact, 1))
    far = exact + (ratio * (num_buckets - exact)).long().clamp(0, num_buckets - exact - 1)
    return offset + torch.where(distance < exact, distance, far)


class PositionBias(nn.Module):
    """A learned score per head and bucket of relative position.

    lowest   first distance with its own bucket when buckets are linear
    max_distance  log-linear buckets up to this distance; None for linear ones
    """

    def __init__(
        self, num_buckets: int, num_heads: int, lowest: int, bidirectional: bool, max_distance: int | None
    ):
        super().__init__()
        self.num_buckets, self.lowest = num_buckets, lowest
        self.bidirectional, self.max_distance = bidirectional, max_distance
        self.relative_attention_bias = nn.Embedding(num_buckets, num_heads)

    def line(self, first: int, count: int, sign: int = 1) -> Tensor:
        """(h, count): scores of the distances first, first + sign, first + 2 * sign, ..."""
        steps = torch.arange(count, device=self.relative_attention_bias.weight.device)
        return self.relative_attention_bias(self.buckets(first + sign * steps)).T

    def matrix(
        self, queries: int, keys: int, first: int = 0, sign: int = 1, causal: float | None = None
    ) -> Tensor:
        """(h, queries, keys): the score of query i and key j is that of the distance first + sign * (j - i).

        Only queries + keys distances occur, so no more rows of the table are looked up, forward or backward.
        causal  is added to the score of keys at a distance above 0
        """
        lowest = first - sign * (queries - 1)
        line = self.line(lowest, queries + keys - 1, sign)
        if causal is not None:
            later = torch.arange(lowest, lowest + queries + keys - 1, device=line.device) > 0
            line = line + torch.zeros_like(line[0]).masked_fill(later, causal)
        return by_distance(line, queries, keys)

    def buckets(self, relative: Tensor) -> Tensor:
        """relative (...,) int -> its row of the table (...,)"""
        if self.max_distance is None:
            return linear_buckets(relative, self.num_buckets, self.lowest)
        return log_linear_buckets(relative, self.num_buckets, self.max_distance, self.bidirectional)


# ------------------------------------------------------------------------------------------- blocks


class RMSNorm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.scale)


class FeedForward(nn.Module):
    def __init__(self, dim: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.layer_norm = RMSNorm(dim)
        self.wi_0 = nn.Linear(dim, ffn_dim, bias=False)
        self.wi_1 = nn.Linear(dim, ffn_dim, bias=False)
        self.wo = nn.Linear(ffn_dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.layer_norm(x)
        if self.training and self.dropout.p:
            gated = F.gelu(self.wi_0(normed), approximate="tanh") * self.wi_1(normed)
            return x + self.dropout(self.wo(self.dropout(gated)))
        if not torch.is_grad_enabled():  # through the modules, which `decoding` exchanges
            return x + self.wo(F.gelu(self.wi_0(normed), approximate="tanh") * self.wi_1(normed))
        return x + gated_feed_forward(normed, self.wi_0.weight, self.wi_1.weight, self.wo.weight)


class AttentionCore(nn.Module):
    """Scores, weights, values and the output projection, shared by the three kinds of attention."""

    def __init__(
        self, bias: PositionBias, qkv_dim: int, out_dim: int, num_heads: int, dropout: float, scaled: bool
    ):
        super().__init__()
        self.positional_bias = bias
        self.final_proj = nn.Linear(qkv_dim, out_dim, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.num_heads = num_heads
        self.scaled = scaled

    def heads(self, x: Tensor) -> Tensor:
        """(a, n, h*d) -> (a, h, n, d)"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor,
        present: Tensor | None = None,
        some: Tensor | None = None,
        capture: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """q (a, h, i, d), k and v (a, h, j, d), bias (h, i, j) -> output (a, i, out), and with `capture` also
        weights (a, h, i, j).

        present (a, j) is True where a key may be read, None where all may. some (a, i) is True in rows that
        may read something; by default those of a text in which anything is present.
        """
        if present is not None:
            some = present.any(dim=-1, keepdim=True) if some is None else some
            present, some = present[:, None, None, :], some[:, None, :, None]
        dropped = self.dropout.p if self.training else 0.0
        weights = None
        # The reference adds its masks to the scores, which rounds them; where all keys are hidden that shows.
        if capture or dropped or not (self.scaled or present is None):
            weights = self._hide(q @ k.transpose(-1, -2) * self._scale(q) + bias, present).softmax(dim=-1)
            if present is not None and self.scaled:
                weights = weights * (present & some)  # exactly 0, where rows that see nothing were uniform
            mixed = self.dropout(weights) @ v
        else:
            mixed = attention(q, k, v, self._hide(bias, present), self._scale(q))
            if present is not None:
                mixed = mixed * some
        out = self.final_proj(mixed.transpose(1, 2).flatten(2))
        return (self.dropout(out) if dropped else out), weights if capture else None

    def _hide(self, scores: Tensor, present: Tensor | None) -> Tensor:
        if present is None:
            return scores
        if self.scaled:
            # The lowest number, not -inf: a row that sees nothing must not become nan.
            return scores.masked_fill(~present, torch.finfo(scores.dtype).min)
        return scores + (~present) * _MASKED

    def _scale(self, q: Tensor) -> float:
        return q.shape[-1] ** -0.5 if self.scaled else 1.0


class SelfAttention(nn.Module):
    def __init__(self, dim: int, core: AttentionCore, qkv_dim: int, causal: bool):
        super().__init__()
        self.ln = RMSNorm(dim)
        self.qkv_proj = nn.Linear(dim, 3 * qkv_dim, bias=False)
        self.multi_head_attention = core
        self.causal = causal

    def forward(self, x: Tensor, mask: Tensor | None, past: KeysValues | None = None) -> Tensor:
        """x (a, n, d); mask (a, j) bool, True where a key may be read, None where all may. With `past`, x
        follows the tokens in there, joins them, and the j keys are all of them."""
        core, n = self.multi_head_attention, x.shape[-2]
        q, k, v = (core.heads(part) for part in self.qkv_proj(self.ln(x)).chunk(3, dim=-1))
        if past is not None:
            k, v = past.append(k, v)
        j = k.shape[-2]
        some = None
        if past is not None and n == 1:
            # The one query stands at the last key: distances 1 - j ... 0 end the line of all distances.
            bias = past.line(j, lambda size: core.positional_bias.line(1 - size, size))[:, None]
        elif self.causal:
            hidden = -torch.inf if core.scaled or mask is None else _MASKED
            bias = core.positional_bias.matrix(n, j, first=n - j, causal=hidden)
            if mask is not None:
                some = mask.cumsum(dim=-1)[:, j - n :] > 0
        else:
            bias = core.positional_bias.matrix(n, j)
        out, _ = core(q, k, v, bias, mask, some)
        return x + out


class CrossAttention(nn.Module):
    """Projections of both cross-attentions: `dim` asks, `kv_dim` is read."""

    def __init__(self, dim: int, kv_dim: int, core: AttentionCore, qkv_dim: int, normalise_kv: bool):
        super().__init__()
        self.ln = RMSNorm(dim)
        self.q_proj = nn.Linear(dim, qkv_dim, bias=False)
        self.kv_proj = nn.Linear(kv_dim, 2 * qkv_dim, bias=False)
        if normalise_kv:
            self.kv_ln = RMSNorm(kv_dim)
        self.multi_head_attention = core
        self.normalise_kv = normalise_kv

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.kv_ln(x) if self.normalise_kv else x
        k, v = self.kv_proj(x).chunk(2, dim=-1)
        return self.multi_head_attention.heads(k), self.multi_head_attention.heads(v)


class ChunkAttention(CrossAttention):
    """Encoder cross-attention: each neighbour's tokens read the chunk that retrieved it."""

    def forward(self, x: Tensor, chunk: Tensor, chunk_mask: Tensor | None) -> Tensor:
        """x (a, k, r, d), chunk (a, m, d_dec), chunk_mask (a, m) or None where nothing is hidden -> like x"""
        core, (_, k, r, _), m = self.multi_head_attention, x.shape, chunk.shape[-2]
        # Neighbours of a chunk ask the same keys; only their positions differ, so they ask as one sequence.
        q = core.heads(rearrange(self.q_proj(self.ln(x)), "a k r d -> a (k r) d"))
        keys, values = self.keys_and_values(chunk)
        # d(i', i) = i' - i in the paper; key - query in the reference. The sign only names buckets, but a
        # reference checkpoint needs its own, and the table's range must lie where the distances are.
        bias = core.positional_bias.matrix(r, m, sign=-1 if core.scaled else 1)
        out, _ = core(q, keys, values, repeat(bias, "h r m -> h (k r) m", k=k), chunk_mask)
        return x + rearrange(out, "a (k r) d -> a k r d", k=k)


class ChunkedCrossAttention(CrossAttention):
    """CCA (paper, equation 4 and listing 1): attending chunks read the encoded neighbours."""

    def __init__(self, *args, chunk_size: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.chunk_size = chunk_size

    def chunk_keys_and_values(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """encoded (b, l, k, r, d_enc) -> keys and values (b, l, h, k*r, d)"""
        return self.keys_and_values(rearrange(encoded, "b l k r d -> b l (k r) d"))

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        bias: Tensor,
        past: int = 0,
        capture: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x (b, n, d): the positions past ... past + n - 1 of texts whose l = (past + n) // m complete chunks
        have neighbours with `keys` and `values` (b, l, h, k*r, d); mask (b, l, k*r) or None where nothing is
        hidden; bias from `window_bias` -> what CCA adds to x (b, n, d), exactly 0 where nothing is read; with
        `capture` the weights (b, l', h, m, k*r) of the l' chunks that these positions read, 0 in rows of
        earlier positions."""
        m, n = self.chunk_size, x.shape[1]
        skipped = max(0, m - 1 - past)  # the first m - 1 positions of a text read nothing
        chunk, row = divmod(past + skipped - (m - 1), m)
        count = keys.shape[1] - chunk
        if count <= 0:
            return torch.zeros_like(x), None
        rows = n - skipped if count == 1 else m
        reading = self.ln(x)[:, skipped:]
        if count > 1:
            reading = F.pad(reading, (0, 0, row, count * m - row - reading.shape[1]))
        first = row if count == 1 else 0
        out, weights = self.attend(
            rearrange(reading, "b (l i) d -> (b l) i d", l=count),
            keys[:, chunk:].flatten(0, 1),
            values[:, chunk:].flatten(0, 1),
            None if mask is None else mask[:, chunk:].flatten(0, 1),
            bias[:, first : first + rows],
            capture,
        )
        out = rearrange(out, "(b l) i d -> b (l i) d", l=count)
        if count > 1:
            out = out[:, row : row + n - skipped]
        if weights is not None:
            weights = F.pad(weights, (0, 0, first, m - rows - first))
            weights = rearrange(weights, "(b l) h m j -> b l h m j", l=count)
            if count > 1 and row:  # only after a cache, so no gradient needs what is overwritten
                weights[:, 0, :, :row] = 0
        return F.pad(out, (0, 0, skipped, 0)), weights

    def attend(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        bias: Tensor,
        capture: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x (a, i, d) after the norm, keys and values (a, h, k*r, d), mask (a, k*r), bias (h, i, k*r)
        -> what is added to the residual stream (a, i, d), weights (a, h, i, k*r) or None"""
        core = self.multi_head_attention
        out, weights = core(core.heads(self.q_proj(x)), keys, values, bias, mask, capture=capture)
        if mask is not None:
            present = mask.any(dim=-1)[:, None, None]
            out = out * present
            if weights is not None:  # missing keys only, which the additive masks leave at 1 in all
                weights = weights * present[..., None]
        return out, weights

    def window_bias(self, num_neighbours: int, length: int) -> Tensor:
        """(h, m, k*r): scores of the rows of a reading window and the keys of k neighbours of this length."""
        bias, m = self.multi_head_attention.positional_bias, self.chunk_size
        if self.multi_head_attention.scaled:  # d = i - i' + m - 1, the same for every neighbour
            return repeat(
                bias.matrix(m, length, first=m - 1, sign=-1), "h m r -> h m (k r)", k=num_neighbours
            )
        return bias.matrix(m, num_neighbours * length)  # key - query over the concatenated neighbours


# ------------------------------------------------------------------------------------------- network


class NeighbourEncoder(nn.Module):
    def __init__(self, config: RetroConfig, embeddings: nn.Embedding):
        super().__init__()
        self.enc_embs = embeddings
        c, scaled = config, config.mode != REFERENCE
        # Paper: i' - i runs from -(m-1) to r-1. Reference: symmetric whatever the table was meant for.
        ca_lowest = 1 - c.chunk_size if scaled else lowest_of_range(c.enc_ca_pos_bias_num_buckets, True)

        def core(buckets: int, lowest: int) -> AttentionCore:
            bias = PositionBias(buckets, c.enc_num_heads, lowest, True, _max_distance(c))
            return AttentionCore(bias, c.enc_qkv_dim, c.enc_hidden_dim, c.enc_num_heads, c.dropout_p, scaled)

        self.layers = nn.ModuleList()
        for i in range(c.enc_num_layers):
            buckets = c.enc_sa_pos_bias_num_buckets
            layer = nn.ModuleDict(
                {
                    "0": SelfAttention(
                        c.enc_hidden_dim, core(buckets, lowest_of_range(buckets, True)), c.enc_qkv_dim, False
                    )
                }
            )
            if i in c.enc_ca_layers:
                ca_core = core(c.enc_ca_pos_bias_num_buckets, ca_lowest)
                layer["1"] = ChunkAttention(
                    c.enc_hidden_dim, c.dec_hidden_dim, ca_core, c.enc_qkv_dim, scaled
                )
            layer["2"] = FeedForward(c.enc_hidden_dim, c.enc_ffn_dim, c.dropout_p)
            self.layers.append(layer)

    def forward(
        self, ids: Tensor, mask: Tensor | None, chunk: Tensor, chunk_mask: Tensor | None
    ) -> list[Tensor]:
        """ids (b, l, k, r), chunk (b, l, m, d_dec); masks (b, l, k, r) and (b, l, m), None where nothing is
        hidden -> states after the embeddings and after each layer, each (b, l, k, r, d_enc)."""
        b, l, k, _ = ids.shape  # noqa: E741
        mask = None if mask is None else mask.flatten(0, 2)
        chunk = chunk.flatten(0, 1)
        chunk_mask = None if chunk_mask is None else chunk_mask.flatten(0, 1)
        states = [self.enc_embs(ids)]
        for layer in self.layers:
            x = layer["0"](states[-1].flatten(0, 2), mask)
            if "1" in layer:
                x = rearrange(x, "(a k) r d -> a k r d", k=k)
                x = layer["1"](x, chunk, chunk_mask).flatten(0, 1)
            states.append(layer["2"](x).unflatten(0, (b, l, k)))
        return states


class RetroBase(nn.Module):
    def __init__(self, config: RetroConfig):
        super().__init__()
        c, scaled = config, config.mode != REFERENCE
        self.config = config
        self.dec_embs = nn.Embedding(c.num_embeddings, c.dec_hidden_dim)
        if c.dec_cca_layers:
            shared = c.enc_share_decoder_embs
            embeddings = self.dec_embs if shared else nn.Embedding(c.num_embeddings, c.enc_hidden_dim)
            self.encoder = NeighbourEncoder(c, embeddings)

        def core(buckets: int, lowest: int, bidirectional: bool) -> AttentionCore:
            bias = PositionBias(buckets, c.dec_num_heads, lowest, bidirectional, _max_distance(c))
            return AttentionCore(bias, c.dec_qkv_dim, c.dec_hidden_dim, c.dec_num_heads, c.dropout_p, scaled)

        # Paper: d runs from m - r to 2m - 2, so the table ends there.
        buckets = c.dec_cca_pos_bias_num_buckets
        cca_lowest = 2 * c.chunk_size - 1 - buckets if scaled else lowest_of_range(buckets, True)
        self.decoder = nn.ModuleList()
        for i in range(c.dec_num_layers):
            sa_buckets = c.dec_sa_pos_bias_num_buckets
            sa_core = core(sa_buckets, lowest_of_range(sa_buckets, False), False)
            layer = nn.ModuleDict({"0": SelfAttention(c.dec_hidden_dim, sa_core, c.dec_qkv_dim, True)})
            if i in c.dec_cca_layers:
                layer["1"] = ChunkedCrossAttention(
                    c.dec_hidden_dim,
                    c.enc_hidden_dim,
                    core(buckets, cca_lowest, True),
                    c.dec_qkv_dim,
                    scaled,
                    chunk_size=c.chunk_size,
                )
            layer["2"] = FeedForward(c.dec_hidden_dim, c.dec_ffn_dim, c.dropout_p)
            self.decoder.append(layer)
        self.final_layer_norm = RMSNorm(c.dec_hidden_dim)

    def encode(
        self, x: Tensor, input_mask: Tensor | None, ids: Tensor, mask: Tensor | None, first: int = 0
    ) -> list[Tensor]:
        """Encoder states for the neighbours ids (b, l, k, r) of the chunks first ... first + l - 1 of
        x (b, n, d); masks like ids and (b, n), None where nothing is hidden; see NeighbourEncoder."""
        m, end = self.config.chunk_size, (first + ids.shape[1]) * self.config.chunk_size
        if end > x.shape[1]:  # the last chunk is incomplete
            if input_mask is None:
                input_mask = x.new_ones(x.shape[:2], dtype=torch.bool)
            input_mask = F.pad(input_mask, (0, end - x.shape[1]))
            x = F.pad(x, (0, 0, 0, end - x.shape[1]))
        chunk = rearrange(x[:, first * m : end], "b (l m) d -> b l m d", m=m)
        if input_mask is not None:
            input_mask = rearrange(input_mask[:, first * m : end], "b (l m) -> b l m", m=m)
        return self.encoder(ids, mask, chunk, input_mask)


@dataclass(frozen=True)
class Capture:
    """What a forward pass shall return besides logits and loss. Nothing of it changes the logits."""

    attention: bool = False
    write_strength: bool = False
    log_probs: bool = False
    hidden_states: bool = False


@dataclass
class CcaWeights:
    """Attention weights of chunked cross-attention.

    weights (layer, b, l, h, m, k, r): row i of chunk first_chunk + u is position (first_chunk+u)*m + m-1 + i
    of the sequence; each row sums to 1 over (k, r), or is 0 where the chunk has no neighbours, and where the
    position came before those that were computed.
    num_tokens  of the whole sequence
    """

    weights: Tensor
    num_tokens: int
    first_chunk: int = 0

    def by_token(self) -> Tensor:
        """(layer, b, h, n, k, r) of a whole sequence with the shift undone: row t belongs to position t. The
        first m-1 rows are 0."""
        m = self.weights.shape[4]
        rows = rearrange(self.weights, "a b l h m k r -> a b h (l m) k r")
        rows = F.pad(rows, (0, 0, 0, 0, m - 1, 0))[:, :, :, : self.num_tokens]
        return F.pad(rows, (0, 0, 0, 0, 0, self.num_tokens - rows.shape[3]))


@dataclass  # not frozen: Lightning rebuilds outputs in place
class RetroOutput:
    """logits (b, n, v), of the last positions only where so asked, None where a loss was enough · loss, ()
    or (b, n) · and, only when asked for with `Capture`:

    attention       CcaWeights, or None where nothing was read
    write_strength  (layer, b, n): |CCA(h)| / |h| of each CCA layer, 0 where nothing was read
    log_probs       (b, n): log p(token t | tokens before t) in nats, 0 for t = 0
    hidden_states   decoder residual stream after the embeddings and each layer, each (b, n, d), before the
                    final norm
    final_hidden    (b, n, d) after the final norm
    encoded         (b, l, k, r, d_enc): the encoded neighbours, always there when some were read; hand them
                    in with a longer text that begins alike
    neighbour_states  encoder states of the newly encoded chunks after the embeddings and each layer, each
                    (b, l, k, r, d_enc)
    """

    logits: Tensor | None
    loss: Tensor | None = None
    attention: CcaWeights | None = None
    write_strength: Tensor | None = None
    log_probs: Tensor | None = None
    hidden_states: list[Tensor] | None = None
    final_hidden: Tensor | None = None
    neighbour_states: list[Tensor] | None = None
    encoded: Tensor | None = None


class Retro(nn.Module):
    """RETRO language model. Without neighbours it is Retro[Off], the plain decoder."""

    def __init__(self, config: RetroConfig):
        super().__init__()
        self.config = config
        self.base = RetroBase(config)
        self.lm_head = nn.Linear(config.dec_hidden_dim, config.num_embeddings, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.base.dec_embs.weight
        init_weights(self)

    def forward(
        self,
        input_ids: Tensor,
        neighbour_ids: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        input_mask: Tensor | None = None,
        neighbour_mask: Tensor | None = None,
        encoded: Tensor | None = None,
        capture: Capture | None = None,
        loss_reduction: str = "mean",
        logits_to_keep: int | None = 0,
        cache: DecodingCache | None = None,
        fresh_ids: Tensor | None = None,
    ) -> RetroOutput:
        """input_ids (b, n) · neighbour_ids (b, l, k, r) for l = n // m complete chunks (or ceil(n / m): the
        neighbours of an incomplete chunk reach nothing), None for Retro[Off] · labels (b, n), the token that
        follows each position, -100 where there is none; or (b, n, v), how likely each is to follow, all 0
        where there is none.

        Masks are True (or 1) where there is a token; by default ids that are not padding.

        encoded (b, l', k, r, d_enc): `RetroOutput.encoded` of an earlier call on a text that began alike. The
        first l' chunks' neighbours are then not encoded again.

        logits_to_keep  of so many last positions are logits computed: 0 for all, None for none, which with
                        labels needs the least memory (large vocabularies are then gone through in pieces)

        cache  from `new_cache`, for inference: input_ids (and input_mask) are then only the tokens that
               follow those in the cache, and join them. neighbour_ids are still those of all complete chunks
               of the whole text; those that are in the cache are not looked at again, and None means that the
               chunks completed by this call have none. Not with labels, log_probs or hidden_states.
        fresh_ids  (b, k, r), with a cache and one token: neighbours of the last m tokens, looked up between
               two chunk borders. From this token on they are read instead of the chunk's own, in a reading
               window that begins here, until the next border.

        Raises InputError for what `check_inputs` refuses and for what a cache cannot do.
        """
        capture = capture or Capture()
        base, pad, m = self.base, self.config.pad_token_idx, self.config.chunk_size
        past = 0 if cache is None else cache.length
        check_inputs(self.config, input_ids, neighbour_ids, input_mask, neighbour_mask, labels, encoded, past)
        n = input_ids.shape[1]
        if cache is not None:
            check_cached(cache, input_ids, labels, capture, fresh_ids)
        input_mask = (input_ids != pad) if input_mask is None else input_mask.bool()
        hidden_some = hides(input_mask)
        if cache is not None:
            input_mask = cache.present(input_mask, hidden_some)
        elif not hidden_some:
            input_mask = None

        reads = neighbour_ids is not None and 0 not in neighbour_ids.shape[2:]  # k = 0 is Retro[Off] too
        reading = Reading(base.encode, pad, m, cache, past, n)
        attention: list[Tensor] = []
        strength: list[Tensor] = []

        x = base.dec_embs(input_ids)
        hidden = [x]
        for index, layer in enumerate(base.decoder):
            x = layer["0"](x, input_mask, None if cache is None else cache.layer(index))
            if "1" in layer:
                if not reading.prepared:
                    reading.prepare(
                        x, input_mask, neighbour_ids if reads else None, neighbour_mask, encoded, fresh_ids
                    )
                written, weights = reading.read(index, layer["1"], x, capture.attention)
                if written is not None:
                    if weights is not None:
                        attention.append(weights)
                    if capture.write_strength:
                        strength.append(written.norm(dim=-1) / x.norm(dim=-1).clamp(min=1e-8))
                    x = x + written
            x = layer["2"](x)
            hidden.append(x)
        if cache is not None:
            cache.length += n
        final = base.final_layer_norm(x)

        logits, loss = logits_and_loss(self.lm_head, final, labels, logits_to_keep, loss_reduction)
        return RetroOutput(
            logits=logits,
            loss=loss,
            attention=CcaWeights(
                by_neighbour(torch.stack(attention), reading.num_neighbours),
                past + n,
                max(past - (m - 1), 0) // m,
            )
            if attention
            else None,
            write_strength=torch.stack(strength) if strength else None,
            log_probs=token_log_probs(logits, input_ids) if capture.log_probs else None,
            hidden_states=hidden if capture.hidden_states else None,
            final_hidden=final if capture.hidden_states else None,
            neighbour_states=reading.states if capture.hidden_states else None,
            encoded=reading.encoded,
        )

    def new_cache(self) -> DecodingCache:
        """An empty cache: hand it in with a text's first tokens, then with those that follow."""
        return DecodingCache(self.config.chunk_size)

    @torch.no_grad()
    def encode_neighbours(
        self,
        cache: DecodingCache,
        neighbour_ids: Tensor,
        neighbour_mask: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """neighbour_ids (b, l', k, r) of the chunks first ... first + l' - 1 of the text in the cache -> the
        encoded neighbours (b, l', k, r, d_enc), to hand in as `encoded`. They depend on the text alone, not
        on what was read for other chunks.

        Raises InputError if the cache does not hold these chunks.
        """
        m, last = self.config.chunk_size, first + neighbour_ids.shape[1]
        if first < 0 or last > cache.length // m:
            raise InputError(
                f"The cache holds {cache.length // m} complete chunks, got neighbours of the chunks {first} "
                f"to {last - 1}. Read the text first."
            )
        if neighbour_mask is None:
            neighbour_mask = neighbour_ids != self.config.pad_token_idx
        neighbour_mask = neighbour_mask.bool() if hides(neighbour_mask) else None
        input_mask = cache.mask.view() if cache.padded else None
        return self.base.encode(cache.hidden.view(), input_mask, neighbour_ids, neighbour_mask, first)[-1]

    @property
    def device(self) -> torch.device:
        return self.base.dec_embs.weight.device

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def freeze_decoder(self) -> None:
        """Let only encoder and CCA learn from here on: Retro[Off] stays what it is, to the bit. So do
        embeddings that the encoder shares with the decoder."""
        self.requires_grad_(False)
        reading = [layer["1"] for layer in self.base.decoder if "1" in layer]
        for module in [self.base.encoder, *reading] if reading else []:
            module.requires_grad_(True)
        self.base.dec_embs.requires_grad_(False)


def logits_and_loss(
    head: nn.Module, final: Tensor, labels: Tensor | None, logits_to_keep: int | None, reduction: str
) -> tuple[Tensor | None, Tensor | None]:
    """final (b, n, d) and an output layer -> the logits that are wanted, and the loss if there are labels;
    see `Retro.forward`."""
    logits = None if logits_to_keep is None else head(final[:, -logits_to_keep:])
    if labels is None:
        return logits, None
    if labels.dim() == 3:
        scores = head(final) if logits is None or logits.shape[1] < labels.shape[1] else logits
        losses = -(labels * scores.log_softmax(dim=-1)).sum(dim=-1)
        return logits, losses if reduction == "none" else losses.sum() / labels.any(dim=-1).sum()
    whole = logits is not None and logits.shape[1] == labels.shape[1]
    if not whole and getattr(head, "bias", None) is None:
        return logits, cross_entropy_in_pieces(final, head.weight, labels, reduction)
    scores = logits if whole else head(final)
    loss = F.cross_entropy(
        scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction=reduction
    )
    return logits, loss.view_as(labels) if reduction == "none" else loss


def check_cached(
    cache: DecodingCache,
    input_ids: Tensor,
    labels: Tensor | None,
    capture: Capture,
    fresh_ids: Tensor | None,
) -> None:
    """Raise InputError for what a model cannot do with a cache."""
    if torch.is_grad_enabled():
        raise InputError(
            "A cache is for inference, but gradients are being recorded. Call the model within "
            "torch.inference_mode(), or without a cache."
        )
    if labels is not None or capture.log_probs or capture.hidden_states:
        raise InputError(
            "With a cache the model sees the new tokens only, so it gives no loss, log_probs or "
            "hidden_states. Compute them from the logits, or call it without a cache."
        )
    known = cache.mask.shape
    if cache.length and known[0] != input_ids.shape[0]:
        raise InputError(
            f"The cache holds {known[0]} sequences, got {input_ids.shape[0]}. Give one row for each, or "
            "choose rows of the cache with cache.select."
        )
    if input_ids.shape[1] > 1 and (cache.fresh is not None or fresh_ids is not None):
        raise InputError(
            f"After fresh neighbours tokens come one at a time until the next chunk border, got "
            f"{input_ids.shape[1]}. Give one token."
        )
    if fresh_ids is not None and cache.length + 1 < cache.chunk_size:
        raise InputError(
            f"Fresh neighbours belong to the last {cache.chunk_size} tokens, but there are "
            f"{cache.length + 1}. Wait until a chunk is full."
        )


def token_log_probs(logits: Tensor, input_ids: Tensor) -> Tensor:
    """logits (b, n, v), input_ids (b, n) -> (b, n): log p(token t | tokens before t), 0 for t = 0."""
    found = logits[:, :-1].log_softmax(dim=-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return F.pad(found, (1, 0))


def neighbour_tensor(neighbours: Neighbours, device: torch.device | None = None) -> Tensor:
    """Neighbours of one sequence, leading axis (l,) -> ids (1, l, k, r): where numpy becomes torch."""
    return torch.from_numpy(neighbours.tokens).to(device)[None]


def init_weights(model: Retro) -> None:
    """Initial values.

    reference   PyTorch's defaults, decoder embeddings N(0, 0.02), position biases 0
    paper       embeddings N(0, 0.02); matrices N(0, 1/sqrt(fan in)), but 0 where they write into the residual
                stream, which therefore starts as the token embeddings alone; position biases 0;
                and where encoder and decoder share embeddings, `start_copying`
    """
    config = model.config
    if model.device.type == "meta":  # only shapes are wanted
        return
    for module in model.modules():
        if isinstance(module, PositionBias):
            nn.init.zeros_(module.relative_attention_bias.weight)
    nn.init.normal_(model.base.dec_embs.weight, std=EMBEDDING_STD)
    if config.mode == REFERENCE:
        return
    if config.dec_cca_layers:
        nn.init.normal_(model.base.encoder.enc_embs.weight, std=EMBEDDING_STD)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not (module is model.lm_head and config.tie_embeddings):
            if name.endswith(("final_proj", "wo")):
                nn.init.zeros_(module.weight)
            else:
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
    head_dims = {config.enc_qkv_dim // config.enc_num_heads, config.dec_qkv_dim // config.dec_num_heads}
    if config.dec_cca_layers and config.enc_share_decoder_embs and len(head_dims) == 1:
        start_copying(model)


@torch.no_grad()
def start_copying(model: Retro) -> None:
    """Let half of the CCA heads begin as induction heads that read neighbours.

    The encoder's first self-attention writes beside each neighbour token which token stood before it and
    which one before that, each into a subspace of its own; the self-attention of the first decoder layer with
    CCA writes beside each token which one stood before it. CCA looks in the neighbours for what followed the
    last two tokens, both in one score, and adds the token that stands there. So from the first step "what
    followed these two tokens in a neighbour" becomes likelier, and training refines that instead of having to
    discover it, which takes more tokens than small runs have.

    Two tokens tell a place better than one: after ":" or a digit anything can follow. On held-out text the
    loss with neighbours is 0.7 nats lower at step 0 than with heads that look for the current token alone.
    Those are made where a model has no room for more: two heads need four subspaces of the size of a head.
    """
    config, reads = model.config, model.base.encoder.layers[0]["0"]
    size = config.enc_qkv_dim // config.enc_num_heads
    basis = torch.linalg.qr(torch.randn(config.enc_hidden_dim, config.enc_hidden_dim)).Q
    subspaces = basis.split(size)  # (size, d) each
    heads = min(config.enc_num_heads, config.dec_num_heads, config.enc_hidden_dim // size) // 2
    cca_layers = [layer["1"] for layer in model.base.decoder if "1" in layer]
    if heads < 2:
        if heads:
            before, now = subspaces[:2]
            _write_earlier(reads, head=0, distance=1, what=now, where=before)
            for cca in cca_layers:
                _look_up(cca, head=0, query=now, key=before, value=now)
        return
    writes = model.base.decoder[min(config.dec_cca_layers)]["0"]
    for head in range(0, heads - heads % 2, 2):
        before, before_that, now, also_now = subspaces[2 * head : 2 * head + 4]
        _write_earlier(reads, head, distance=1, what=now, where=before)
        _write_earlier(reads, head + 1, distance=2, what=also_now, where=before_that)
        _write_earlier(writes, head, distance=1, what=also_now, where=before_that)
        for cca in cca_layers:
            for place, value in enumerate((now, also_now)):
                _look_up(cca, head + place, query=now + before_that, key=before + before_that, value=value)


def _write_earlier(attention: nn.Module, head: int, distance: int, what: Tensor, where: Tensor) -> None:
    """Let a self-attention head write `what` (size, d) of the token at that distance before into `where`."""
    core, width = attention.multi_head_attention, attention.qkv_proj.out_features // 3
    rows = slice(head * len(what), (head + 1) * len(what))
    bias = core.positional_bias
    # e^8 outweighs hundreds of other tokens
    bias.relative_attention_bias.weight[bias.buckets(torch.tensor(-distance)), head] = 8.0
    attention.qkv_proj.weight[2 * width :][rows] = what
    # Three times an embedding: what reads here shall be ruled by the earlier token.
    core.final_proj.weight[:, rows] = 3 * EMBEDDING_STD * where.T


def _look_up(cca: nn.Module, head: int, query: Tensor, key: Tensor, value: Tensor) -> None:
    """Let a CCA head match `query` with `key` and add the `value` found there, all (size, d)."""
    rows, width = slice(head * len(value), (head + 1) * len(value)), cca.q_proj.out_features
    cca.q_proj.weight[rows] = query
    cca.kv_proj.weight[:width][rows] = key
    cca.kv_proj.weight[width:][rows] = value
    cca.multi_head_attention.final_proj.weight[:, rows] = 3 * EMBEDDING_STD * value.T


def _max_distance(config: RetroConfig) -> int | None:
    return config.pos_bias_max_distance if config.pos_bias == "log-linear" else None
