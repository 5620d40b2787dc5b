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
from retro_core.config import REFERENCE, RetroConfig

IGNORED_LABEL = -100
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

    def forward(self, relative: Tensor) -> Tensor:
        """relative (...,) int -> (h, ...)"""
        return rearrange(self.relative_attention_bias(self.buckets(relative)), "... h -> h ...")

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
        # The small number is added to the root, not under it, as in the reference.
        rms = x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return self.scale * (x / (rms + 1e-8))


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
        gated = F.gelu(self.wi_0(normed), approximate="tanh") * self.wi_1(normed)
        return x + self.dropout(self.wo(self.dropout(gated)))


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
        return rearrange(x, "... n (h d) -> ... h n d", h=self.num_heads)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, masks: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """q (..., h, i, d), k and v (..., h, j, d), bias (h, i, j), masks bool broadcastable to
        (..., h, i, j), True where a key may be read -> output (..., i, out), weights (..., h, i, j)."""
        if self.scaled:
            q = q * q.shape[-1] ** -0.5
        scores = q @ k.transpose(-1, -2) + bias
        if self.scaled:
            visible = masks[0]
            for mask in masks[1:]:
                visible = visible & mask
            scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
            # The product matters in rows without any visible key only: uniform there, exactly 0 after it.
            weights = scores.softmax(dim=-1) * visible
        else:
            for mask in masks:
                scores = scores + (~mask) * _MASKED
            weights = scores.softmax(dim=-1)
        mixed = self.dropout(weights) @ v
        return self.dropout(self.final_proj(rearrange(mixed, "... h n d -> ... n (h d)"))), weights


class SelfAttention(nn.Module):
    def __init__(self, dim: int, core: AttentionCore, qkv_dim: int, causal: bool):
        super().__init__()
        self.ln = RMSNorm(dim)
        self.qkv_proj = nn.Linear(dim, 3 * qkv_dim, bias=False)
        self.multi_head_attention = core
        self.causal = causal

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (..., n, d), mask (..., n) bool: True where a key may be read."""
        core, n = self.multi_head_attention, x.shape[-2]
        q, k, v = (core.heads(part) for part in self.qkv_proj(self.ln(x)).chunk(3, dim=-1))
        index = torch.arange(n, device=x.device)
        relative = index[None, :] - index[:, None]  # (query, key)
        masks = [mask[..., None, None, :]]
        if self.causal:
            masks.append(relative <= 0)
        out, _ = core(q, k, v, core.positional_bias(relative), masks)
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

    def forward(self, x: Tensor, chunk: Tensor, chunk_mask: Tensor) -> Tensor:
        """x (b, l, k, r, d), chunk (b, l, m, d_dec), chunk_mask (b, l, m) -> like x"""
        core = self.multi_head_attention
        q = core.heads(self.q_proj(self.ln(x)))
        k, v = self.keys_and_values(chunk[:, :, None])  # the same for every neighbour
        own = torch.arange(x.shape[3], device=x.device)
        asked = torch.arange(chunk.shape[2], device=x.device)
        # d(i', i) = i' - i in the paper; key - query in the reference. The sign only names buckets, but a
        # reference checkpoint needs its own, and the table's range must lie where the distances are.
        relative = asked[None, :] - own[:, None] if not core.scaled else own[:, None] - asked[None, :]
        out, _ = core(q, k, v, core.positional_bias(relative), [chunk_mask[:, :, None, None, None, :]])
        return x + out


class ChunkedCrossAttention(CrossAttention):
    """CCA (paper, equation 4 and listing 1): attending chunks read the encoded neighbours."""

    def __init__(self, *args, chunk_size: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.chunk_size = chunk_size

    def forward(self, x: Tensor, encoded: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, n, d) with l = n // m complete chunks, encoded (b, l, k, r, d_enc), mask (b, l, k, r)
        -> what CCA adds to x (b, n, d), exactly 0 where nothing is read; weights (b, l, h, m, k, r)."""
        core, m, n = self.multi_head_attention, self.chunk_size, x.shape[1]
        num_chunks, k, r = mask.shape[1:]
        attending = F.pad(self.ln(x)[:, m - 1 :], (0, 0, 0, num_chunks * m - (n - m + 1)))
        q = core.heads(rearrange(self.q_proj(attending), "b (l m) d -> b l m d", m=m))
        keys, values = self.keys_and_values(rearrange(encoded, "b l k r d -> b l (k r) d"))
        flat_mask = rearrange(mask, "b l k r -> b l (k r)")
        query = torch.arange(m, device=x.device)[:, None]
        if core.scaled:  # d = i - i' + m - 1, the same for every neighbour
            relative = query - torch.arange(r, device=x.device)[None, :] + m - 1
            bias = repeat(core.positional_bias(relative), "h m r -> h m (k r)", k=k)
        else:  # key - query over the concatenated neighbours
            bias = core.positional_bias(torch.arange(k * r, device=x.device)[None, :] - query)
        out, weights = core(q, keys, values, bias, [flat_mask[:, :, None, None, :]])
        present = flat_mask.any(dim=-1)[:, :, None, None]
        out = out * present
        if not core.scaled:  # weights of missing keys only, which the additive masks leave at 1 in all
            weights = weights * present[..., None]
        out = rearrange(out, "b l m d -> b (l m) d")[:, : n - m + 1]
        return F.pad(out, (0, 0, m - 1, 0)), rearrange(weights, "b l h m (k r) -> b l h m k r", k=k)


# ------------------------------------------------------------------------------------------ network


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

    def forward(self, ids: Tensor, mask: Tensor, chunk: Tensor, chunk_mask: Tensor) -> list[Tensor]:
        """ids and mask (b, l, k, r), chunk (b, l, m, d_dec), chunk_mask (b, l, m)
        -> states after the embeddings and after each layer, each (b, l, k, r, d_enc)."""
        states = [self.enc_embs(ids)]
        for layer in self.layers:
            x = layer["0"](states[-1], mask)
            if "1" in layer:
                x = layer["1"](x, chunk, chunk_mask)
            states.append(layer["2"](x))
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
        self, x: Tensor, input_mask: Tensor, ids: Tensor, mask: Tensor, first: int = 0
    ) -> list[Tensor]:
        """Encoder states for the neighbours ids (b, l, k, r) of the chunks first ... first + l - 1 of
        x (b, n, d); see NeighbourEncoder."""
        m = self.config.chunk_size
        missing = (first + ids.shape[1]) * m - x.shape[1]  # below 0: padding by so much cuts it off
        chunk = F.pad(x, (0, 0, 0, missing))[:, first * m :]
        chunk_mask = F.pad(input_mask, (0, missing))[:, first * m :]
        return self.encoder(
            ids,
            mask,
            rearrange(chunk, "b (l m) d -> b l m d", m=m),
            rearrange(chunk_mask, "b (l m) -> b l m", m=m),
        )


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

    weights (layer, b, l, h, m, k, r): row i of chunk u is position u*m + m-1 + i of the sequence; each row
    sums to 1 over (k, r), or is 0 where the chunk has no neighbours.
    """

    weights: Tensor
    num_tokens: int

    def by_token(self) -> Tensor:
        """(layer, b, h, n, k, r) with the shift undone: row t belongs to position t. The first m-1 rows
        are 0."""
        m = self.weights.shape[4]
        rows = rearrange(self.weights, "a b l h m k r -> a b h (l m) k r")
        rows = F.pad(rows, (0, 0, 0, 0, m - 1, 0))[:, :, :, : self.num_tokens]
        return F.pad(rows, (0, 0, 0, 0, 0, self.num_tokens - rows.shape[3]))


@dataclass  # not frozen: Lightning rebuilds outputs in place
class RetroOutput:
    """logits (b, n, v) · loss, () or (b, n) · and, only when asked for with `Capture`:

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

    logits: Tensor
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
    ) -> RetroOutput:
        """input_ids (b, n) · neighbour_ids (b, l, k, r) for l = n // m complete chunks (or ceil(n / m): the
        neighbours of an incomplete chunk reach nothing), None for Retro[Off] · labels (b, n), the token that
        follows each position, -100 where there is none.

        Masks are True (or 1) where there is a token; by default ids that are not padding.

        encoded (b, l', k, r, d_enc): `RetroOutput.encoded` of an earlier call on a text that began alike. The
        first l' chunks' neighbours are then not encoded again.

        Raises InputError for empty input, ids outside the vocabulary or the wrong number of chunks.
        """
        capture = capture or Capture()
        base, pad, m = self.base, self.config.pad_token_idx, self.config.chunk_size
        self._check(input_ids, neighbour_ids)
        input_mask = (input_ids != pad) if input_mask is None else input_mask.bool()
        num_chunks = input_ids.shape[1] // m
        reads = neighbour_ids is not None and bool(self.config.dec_cca_layers)
        reads = reads and 0 not in neighbour_ids.shape[2:]  # k = 0 is Retro[Off] too
        if reads:
            neighbour_mask = (neighbour_ids != pad) if neighbour_mask is None else neighbour_mask.bool()
        states: list[Tensor] | None = None
        attention: list[Tensor] = []
        strength: list[Tensor] = []

        x = base.dec_embs(input_ids)
        hidden = [x]
        for layer in base.decoder:
            x = layer["0"](x, input_mask)
            if "1" in layer and reads:
                if states is None:
                    known = 0 if encoded is None else encoded.shape[1]
                    states = base.encode(
                        x, input_mask, neighbour_ids[:, known:], neighbour_mask[:, known:], first=known
                    )
                    encoded = states[-1] if encoded is None else torch.cat([encoded, states[-1]], dim=1)
                if num_chunks:
                    written, weights = layer["1"](x, encoded[:, :num_chunks], neighbour_mask[:, :num_chunks])
                    if capture.attention:
                        attention.append(weights)
                    if capture.write_strength:
                        strength.append(written.norm(dim=-1) / x.norm(dim=-1).clamp(min=1e-8))
                    x = x + written
            x = layer["2"](x)
            hidden.append(x)
        final = base.final_layer_norm(x)
        logits = self.lm_head(final)

        loss = None
        if labels is not None:
            loss = F.cross_entropy(
                rearrange(logits, "b n v -> (b n) v"), labels.flatten(), ignore_index=IGNORED_LABEL,
                reduction=loss_reduction,
            )  # fmt: skip
            loss = loss.view_as(labels) if loss_reduction == "none" else loss
        return RetroOutput(
            logits=logits,
            loss=loss,
            attention=CcaWeights(torch.stack(attention), input_ids.shape[1]) if attention else None,
            write_strength=torch.stack(strength) if strength else None,
            log_probs=token_log_probs(logits, input_ids) if capture.log_probs else None,
            hidden_states=hidden if capture.hidden_states else None,
            final_hidden=final if capture.hidden_states else None,
            neighbour_states=states if capture.hidden_states else None,
            encoded=encoded,
        )

    def _check(self, input_ids: Tensor, neighbour_ids: Tensor | None) -> None:
        n, m = input_ids.shape[1], self.config.chunk_size
        if n == 0:
            raise InputError("Expected at least one token, got an empty sequence. Give some text.")
        for ids in (input_ids, neighbour_ids):
            if ids is None or ids.numel() == 0:
                continue
            lowest, highest = (int(edge) for edge in torch.aminmax(ids))
            if lowest < 0 or highest >= self.config.num_embeddings:
                raise InputError(
                    f"Token id {lowest if lowest < 0 else highest} is outside the model's vocabulary of "
                    f"{self.config.num_embeddings}. Use the tokenizer that belongs to the model."
                )
        if neighbour_ids is not None and neighbour_ids.shape[1] not in (n // m, -(-n // m)):
            raise InputError(
                f"{n} tokens have {n // m} complete chunks of {m}, got neighbours for "
                f"{neighbour_ids.shape[1]}. Give neighbours (b, {n // m}, k, r)."
            )

    @property
    def device(self) -> torch.device:
        return self.base.dec_embs.weight.device

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


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
    """Let half of the CCA heads begin as an induction head that reads neighbours.

    The encoder's first self-attention writes a projection of the previous token beside each neighbour token,
    into a subspace of its own; CCA looks there for what resembles the current token and adds the token that
    stands there. So from the first step "what followed this token in a neighbour" becomes likelier, and
    training refines that instead of having to discover it, which takes more tokens than small runs have.
    """
    config, encoder = model.config, model.base.encoder
    first = encoder.layers[0]["0"]
    core = first.multi_head_attention
    bias = core.positional_bias
    head_dim = config.enc_qkv_dim // config.enc_num_heads
    # Each head needs two subspaces, one for what a token is and one for what stood before it.
    count = min(config.enc_num_heads, config.dec_num_heads, config.enc_hidden_dim // head_dim) // 2
    basis = torch.linalg.qr(torch.randn(config.enc_hidden_dim, config.enc_hidden_dim)).Q
    previous = bias.buckets(torch.tensor(-1))
    for head in range(count):
        rows = slice(head * head_dim, (head + 1) * head_dim)
        is_now, was_before = basis.split(head_dim)[2 * head : 2 * head + 2]  # (head_dim, d) each
        bias.relative_attention_bias.weight[previous, head] = 6.0  # e^6 outweighs a hundred other tokens
        first.qkv_proj.weight[2 * config.enc_qkv_dim :][rows] = is_now
        # Three times an embedding: the key shall be ruled by the token before.
        core.final_proj.weight[:, rows] = 3 * EMBEDDING_STD * was_before.T
        for layer in model.base.decoder:
            if "1" in layer:
                cca = layer["1"]
                cca.q_proj.weight[rows] = is_now
                cca.kv_proj.weight[: config.dec_qkv_dim][rows] = was_before
                cca.kv_proj.weight[config.dec_qkv_dim :][rows] = is_now
                cca.multi_head_attention.final_proj.weight[:, rows] = 3 * EMBEDDING_STD * is_now.T


def _max_distance(config: RetroConfig) -> int | None:
    return config.pos_bias_max_distance if config.pos_bias == "log-linear" else None
