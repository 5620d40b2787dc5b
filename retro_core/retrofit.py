"""RETRO-fitting (Borgeaud et al. 2021, section 4.2): a neighbour encoder and chunked cross-attention for a
language model that exists already, here any Hugging Face causal language model whose layers add what their
attention computes to the residual stream.

Nothing of the base is forked or changed. A forward hook on the attention of the layers that shall read adds
CCA(h) to the attention's output, where h is the stream after that output was added. In a layer whose
feed-forward comes after its attention (Llama, GPT-2, OPT …) this is the paper's place, FFW(CCA(ATTN(H))), up
to rounding. In a layer that computes both in parallel (GPT-NeoX, Phi) CCA reads the stream after attention
too, and what it writes is seen from the next layer on, as is what that layer's attention writes. `retrofit`
tries on a few tokens that the base's layers are of this kind, and refuses others.

Without neighbours the hooks do nothing: Retro[Off] is the base, to the bit, as long as it is frozen. All
starts write exactly 0, so Retro[On] is the base too until the first step of training.

A fitted model's folder, besides tokenizer.json, SHA256SUMS and perhaps README.md:

    config.json         {"base": {"name", "fingerprint"}, "fit": FitConfig, "retro": RetroConfig}
    model.safetensors   the new weights only (all weights if the base was trained too)
"""

import copy
import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from indexing.errors import CheckpointError, InputError
from retro_core.bases import CONFIG_FILE, load_base
from retro_core.cache import DecodingCache
from retro_core.config import PAPER, FitConfig, RetroConfig, from_dict, read_object
from retro_core.inputs import check_inputs
from retro_core.model import (
    AttentionCore,
    Capture,
    CcaWeights,
    ChunkAttention,
    ChunkedCrossAttention,
    NeighbourEncoder,
    PositionBias,
    Retro,
    RetroBase,
    RetroOutput,
    check_cached,
    logits_and_loss,
    token_log_probs,
)
from retro_core.reading import Reading, by_neighbour, hides

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ATTENTIONS = ("self_attn", "attn", "attention", "self_attention")
_NORMS_BEFORE_ATTENTION = ("input_layernorm", "ln_1", "self_attn_layer_norm")
_PUSH = 1e4  # far more than any layer writes, and a number in 16 bits too


def retrofit(
    base: "PreTrainedModel",
    pad_id: int,
    fit: FitConfig | None = None,
    calibration: Tensor | None = None,
    name: str = "",
) -> "FittedRetro":
    """Give `base` an encoder and CCA, to be trained; see the module. The base is used as it is, not copied,
    and frozen unless `fit.unfreeze`.

    pad_id       the token that is never read, see `indexing.tokenizer.Tokenizer.pad_id`
    calibration  ids (b, n) of some thousand tokens of ordinary text, needed by fit.start "copy": see
    `start_copying`
    name         of the base, to be found by when the fitted model is loaded

    Raises InputError if the base's layers are of a kind that this cannot wrap.
    """
    fit = fit or FitConfig()
    model = FittedRetro(base, fit_sizes(base, pad_id, fit), fit, name)
    _check_base(model)
    init_new_weights(model, calibration)
    return model.eval()


def fit_sizes(base: "PreTrainedModel", pad_id: int, fit: FitConfig) -> RetroConfig:
    """The RetroConfig of the fitted model: the base's sizes, and by default the paper's CCA layers, every
    third from the sixth on, or from the ninth in bases of more than 15 layers.

    Raises ConfigError for layers that the base does not have.
    """
    c, m = base.config, fit.chunk_size
    count = c.num_hidden_layers
    heads = c.num_attention_heads
    width = heads * (getattr(c, "head_dim", None) or c.hidden_size // heads)
    first = min(6 if count <= 15 else 9, count) - 1
    return RetroConfig(
        mode=PAPER,
        num_embeddings=base.get_input_embeddings().weight.shape[0],
        pad_token_idx=pad_id,
        chunk_size=m,
        dropout_p=fit.dropout,
        enc_share_decoder_embs=True,
        enc_hidden_dim=c.hidden_size,
        enc_num_layers=fit.encoder_layers,
        enc_ffn_dim=2 * c.hidden_size,
        enc_num_heads=heads,
        enc_qkv_dim=width,
        enc_ca_layers=[0],
        enc_sa_pos_bias_num_buckets=4 * m,
        enc_ca_pos_bias_num_buckets=3 * m,
        dec_hidden_dim=c.hidden_size,
        dec_num_layers=count,
        dec_ffn_dim=getattr(c, "intermediate_size", None) or 4 * c.hidden_size,
        dec_num_heads=heads,
        dec_qkv_dim=width,
        dec_cca_layers=list(fit.cca_layers) or list(range(first, count, 3)),
        dec_cca_pos_bias_num_buckets=3 * m,
    )


# ---------------------------------------------------------------------------------------------- hooks


@dataclass
class _Pass:
    """One forward pass of one owner (a fitted model, a borrowed encoder) through the modules it has
    hooked."""

    owner: nn.Module
    add: Any  # (layer, stream (b, n, d)) -> what is added to it, or None
    stream: dict[int, Tensor] = field(default_factory=dict)
    outputs: list[Tensor] | None = None  # of each layer, where they are asked for


# Not an attribute: the same model may run in several threads at a time.
_PASS: ContextVar[_Pass | None] = ContextVar("pass", default=None)


@contextmanager
def _running(run: _Pass) -> Iterator[_Pass]:
    token = _PASS.set(run)
    try:
        yield run
    finally:
        _PASS.reset(token)


def _hook(owner: nn.Module, layers: list[nn.Module], reading: list[int]) -> None:
    """Let the current `_Pass` of `owner` add something after the attention of the layers `reading`, and see
    the output of every layer."""
    for index, layer in enumerate(layers):
        if index in reading:
            layer.register_forward_pre_hook(functools.partial(_enter, owner, index), with_kwargs=True)
            _attention_of(layer).register_forward_hook(functools.partial(_attended, owner, index))
        layer.register_forward_hook(functools.partial(_leave, owner))


def _enter(owner: nn.Module, index: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    run = _PASS.get()
    if run is not None and run.owner is owner:
        run.stream[index] = args[0] if args else kwargs["hidden_states"]


def _attended(owner: nn.Module, index: int, attention: nn.Module, args: tuple, output: Any) -> Any:
    run = _PASS.get()
    if run is None or run.owner is not owner:
        return None
    attended = output[0] if isinstance(output, tuple) else output
    written = run.add(index, run.stream.pop(index) + attended)
    if written is None:
        return None
    attended = attended + written
    return (attended, *output[1:]) if isinstance(output, tuple) else attended


def _leave(owner: nn.Module, layer: nn.Module, args: tuple, output: Any) -> None:
    run = _PASS.get()
    if run is not None and run.owner is owner and run.outputs is not None:
        run.outputs.append(output[0] if isinstance(output, tuple) else output)


def decoder_layers(base: "PreTrainedModel") -> list[nn.Module]:
    """The layers of a causal language model, first to last: the longest list of modules in it that has as
    many as its config says. Raises InputError if there is none."""
    count = base.config.num_hidden_layers
    for module in base.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise InputError(
        f"{type(base).__name__} has no list of {count} layers, so there is nothing to wrap. Choose a "
        f"base of the "
        "Llama, GPT-2, GPT-NeoX, OPT or Phi family."
    )


def _attention_of(layer: nn.Module) -> nn.Module:
    for name in _ATTENTIONS:
        if isinstance(getattr(layer, name, None), nn.Module):
            return getattr(layer, name)
    raise InputError(
        f"{type(layer).__name__} has none of {', '.join(_ATTENTIONS)}, so CCA has no place in it. "
        f"Choose a base "
        "of the Llama, GPT-2, GPT-NeoX, OPT or Phi family."
    )


@torch.no_grad()
def _check_base(model: "FittedRetro") -> None:
    """Raise InputError unless the base's layers add their attention's output to the stream as it is, and its
    logits are its output layer's."""
    base = model.lm
    ids = torch.arange(3, device=model.device)[None] % model.config.num_embeddings
    kind = type(base).__name__
    hidden = base.base_model(input_ids=ids, use_cache=False)[0]
    if not torch.equal(base.get_output_embeddings()(hidden), base(input_ids=ids, use_cache=False).logits):
        raise InputError(
            f"{kind} changes its logits after its output layer, which cannot be wrapped. Choose a base "
            f"of the "
            "Llama, GPT-2, GPT-NeoX, OPT or Phi family."
        )
    random = torch.Generator().manual_seed(0)
    push = _PUSH * torch.randn(model.config.dec_hidden_dim, generator=random).to(hidden)
    index = model.config.dec_cca_layers[0]
    ends = []
    for added in (torch.zeros_like(push), push):
        run = _Pass(model, lambda _, stream, added=added: added.expand_as(stream), outputs=[])
        with _running(run):
            base.base_model(input_ids=ids, use_cache=False)
        ends.append(run.outputs[index].float())
    if not torch.allclose((ends[1] - ends[0]) / _PUSH, push.float() / _PUSH, atol=0.1):
        raise InputError(
            f"The layers of {kind} change what their attention computes before they add it, so CCA has "
            f"no place "
            "after it. Choose a base of the Llama, GPT-2, GPT-NeoX, OPT or Phi family."
        )


# ---------------------------------------------------------------------------------------------- model


class BorrowedEncoder(nn.Module):
    """A neighbour encoder made of the base's embeddings and copies of its first layers, in which every token
    reads its whole neighbour; after the first one's attention it reads the chunk that asked."""

    def __init__(self, base: "PreTrainedModel", config: RetroConfig):
        super().__init__()
        count = config.enc_num_layers
        sizes = copy.deepcopy(base.config)
        sizes.num_hidden_layers = count
        if getattr(sizes, "layer_types", None):
            sizes.layer_types = sizes.layer_types[:count]
        sizes.vocab_size, sizes.pad_token_id = 8, None  # the embeddings are the base's own
        self.body = type(base.base_model)(sizes)
        kept = self.body.state_dict()
        own = base.base_model.state_dict()
        self.body.load_state_dict({k: own[k] for k in kept if own[k].shape == kept[k].shape}, strict=False)
        self.body.set_input_embeddings(base.get_input_embeddings())
        self.asking = _cross_attention(ChunkAttention, config)
        _hook(self, decoder_layers(self.body), [0])

    def forward(
        self, ids: Tensor, mask: Tensor | None, chunk: Tensor, chunk_mask: Tensor | None
    ) -> list[Tensor]:
        """Like NeighbourEncoder's."""
        b, l, k, r = ids.shape  # noqa: E741
        chunk = chunk.flatten(0, 1)
        chunk_mask = None if chunk_mask is None else chunk_mask.flatten(0, 1)

        def ask(_: int, stream: Tensor) -> Tensor:
            x = rearrange(stream, "(a k) r d -> a k r d", k=k)
            return (self.asking(x, chunk, chunk_mask) - x).flatten(0, 1)

        hidden = torch.zeros(b * l * k, 1, 1, r, dtype=chunk.dtype, device=ids.device)
        if mask is not None:
            hidden = hidden.masked_fill(~mask.flatten(0, 2)[:, None, None], torch.finfo(chunk.dtype).min)
        run = _Pass(self, ask, outputs=[])
        with _running(run):
            # Four axes: the base takes the mask as it is, without a causal one.
            self.body(
                input_ids=ids.flatten(0, 2),
                attention_mask=hidden.expand(-1, 1, r, r),
                position_ids=torch.arange(r, device=ids.device)[None],
                use_cache=False,
            )
        states = [self.body.get_input_embeddings()(ids)]
        return states + [output.unflatten(0, (b, l, k)) for output in run.outputs]


class FittedCache(DecodingCache):
    """A DecodingCache whose self-attention part is the base's own cache."""

    def __init__(self, chunk_size: int):
        from transformers import DynamicCache

        super().__init__(chunk_size)
        self.past = DynamicCache()

    def crop(self, length: int) -> None:
        before = self.length
        super().crop(length)
        if self.length < before:  # transformers is told how many to remove, as a negative number
            self.past.crop(self.length - before)

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        self.past.batch_select_indices(rows)

    def copy(self) -> "FittedCache":
        twin = FittedCache(self.chunk_size)
        vars(twin).update(vars(super().copy()))
        twin.past = copy.deepcopy(self.past)
        return twin


class FittedRetro(nn.Module):
    """A base with encoder and CCA; called like `retro_core.model.Retro`. Make one with `retrofit` or
    `retro_core.checkpoint.load_model`.

    lm      the base, with hooks that act during this model's own passes only
    name    of the base; `fingerprint`, taken when it came in, says which weights it had
    """

    def __init__(self, base: "PreTrainedModel", config: RetroConfig, fit: FitConfig, name: str = ""):
        super().__init__()
        self.config, self.fit, self.name = config, fit, name
        self.fingerprint = base_fingerprint(base)
        self.lm = base.requires_grad_(fit.unfreeze)
        if fit.encoder == "base":
            self.encoder: nn.Module = BorrowedEncoder(base, config)
        else:
            self.encoder = NeighbourEncoder(config, base.get_input_embeddings())
        layers = map(str, config.dec_cca_layers)
        self.cca = nn.ModuleDict({i: _cross_attention(ChunkedCrossAttention, config) for i in layers})
        self.to(base.device, base.dtype)
        _hook(self, decoder_layers(base), config.dec_cca_layers)

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
        cache: FittedCache | None = None,
        fresh_ids: Tensor | None = None,
    ) -> RetroOutput:
        """See `Retro.forward`. Padding on the left moves no position: the first token that is none has 0."""
        capture = capture or Capture()
        past, n = 0 if cache is None else cache.length, input_ids.shape[-1]
        check_inputs(self.config, input_ids, neighbour_ids, input_mask, neighbour_mask, labels, encoded, past)
        if cache is not None:
            check_cached(cache, input_ids, labels, capture, fresh_ids)
        longest = getattr(self.lm.config, "max_position_embeddings", None)
        if longest and past + n > longest:
            raise InputError(
                f"The base {self.name or type(self.lm).__name__!r} knows positions of up to {longest:,} "
                f"tokens, got {past + n:,}. Shorten the text, or write less."
            )
        input_mask = (input_ids != self.config.pad_token_idx) if input_mask is None else input_mask.bool()
        hidden_some = hides(input_mask)
        mask = input_mask if hidden_some else None
        if cache is not None:
            mask = cache.present(input_mask, hidden_some)
        positions = None
        if mask is not None:
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]

        reads = neighbour_ids is not None and 0 not in neighbour_ids.shape[2:]
        reading = Reading(self.encode, self.config.pad_token_idx, self.config.chunk_size, cache, past, n)
        attention: list[Tensor] = []
        strength: list[Tensor] = []

        def read(index: int, stream: Tensor) -> Tensor | None:
            if not reading.prepared:
                reading.prepare(
                    stream, mask, neighbour_ids if reads else None, neighbour_mask, encoded, fresh_ids
                )
            written, weights = reading.read(index, self.cca[str(index)], stream, capture.attention)
            if written is None:
                return None
            if weights is not None:
                attention.append(weights)
            if capture.write_strength:
                strength.append(written.norm(dim=-1) / stream.norm(dim=-1).clamp(min=1e-8))
            return written

        run = _Pass(self, read, outputs=[] if capture.hidden_states else None)
        with _running(run):
            more = {} if mask is None else {"attention_mask": mask, "position_ids": positions}
            final = self.lm.base_model(
                input_ids=input_ids,
                past_key_values=None if cache is None else cache.past,
                use_cache=cache is not None,
                **more,
            )[0]
        if cache is not None:
            cache.length += n

        logits, loss = logits_and_loss(
            self.lm.get_output_embeddings(), final, labels, logits_to_keep, loss_reduction
        )
        return RetroOutput(
            logits=logits,
            loss=loss,
            attention=CcaWeights(
                by_neighbour(torch.stack(attention), reading.num_neighbours),
                past + n,
                max(past - (self.config.chunk_size - 1), 0) // self.config.chunk_size,
            )
            if attention
            else None,
            write_strength=torch.stack(strength) if strength else None,
            log_probs=token_log_probs(logits, input_ids) if capture.log_probs else None,
            hidden_states=[self.lm.get_input_embeddings()(input_ids), *run.outputs]
            if run.outputs is not None
            else None,
            final_hidden=final if capture.hidden_states else None,
            neighbour_states=reading.states if capture.hidden_states else None,
            encoded=reading.encoded,
        )

    # The same as the from-scratch model's, which finds these names in `base`.
    encode = RetroBase.encode
    encode_neighbours = Retro.encode_neighbours

    @property
    def base(self) -> "FittedRetro":
        return self

    def new_cache(self) -> FittedCache:
        """See `Retro.new_cache`."""
        return FittedCache(self.config.chunk_size)

    def description(self) -> dict[str, Any]:
        """What config.json of its folder says."""
        return {
            "base": {"name": self.name, "fingerprint": self.fingerprint},
            "fit": self.fit.to_dict(),
            "retro": self.config.to_dict(),
        }

    def train(self, mode: bool = True) -> "FittedRetro":
        """As usual; but a frozen base stays as it is in use, without dropout."""
        super().train(mode)
        if not self.fit.unfreeze:
            self.lm.eval()
        return self

    def new_parameters(self) -> dict[str, nn.Parameter]:
        """What this model has learned, by name: everything besides the base; all, if the base learns too."""
        base = set() if self.fit.unfreeze else {id(p) for p in self.lm.parameters()}
        return {name: p for name, p in self.named_parameters() if id(p) not in base}

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())


def base_fingerprint(base: "PreTrainedModel") -> str:
    """sha256 over the names of a base's parameters, each followed by its float32 bytes: the same for the same
    weights, in whatever precision and files they were stored. Empty where only shapes are wanted."""
    if base.device.type == "meta":
        return ""
    total = hashlib.sha256()
    for name, parameter in sorted(base.named_parameters()):
        total.update(name.encode())
        total.update(parameter.detach().to("cpu", torch.float32).contiguous().numpy())
    return total.hexdigest()


def check_fingerprint(base: "PreTrainedModel", name: str, expected: str, who: str) -> None:
    """Raise CheckpointError unless these are the weights that `who` was fitted to."""
    found = base_fingerprint(base)
    if found != expected:
        raise CheckpointError(
            f"{who} was fitted to the base {name!r} with weights {expected[:12]}…, but these have "
            f"{found[:12]}…. "
            "New weights mean nothing on another base: give the one it was fitted to."
        )


def open_fitted(folder: Path, base: "PreTrainedModel | None" = None) -> FittedRetro:
    """The fitted model in a folder, with freshly initialised new weights that are still to be loaded.

    base  the base to put it on; by default the one of the name that config.json gives, see `retro_core.bases`

    Raises CheckpointError if that base is not here or has other weights; ConfigError for a bad config.json.
    """
    values = read_object(folder / CONFIG_FILE)
    facts, fit, sizes = (values.get(key) for key in ("base", "fit", "retro"))
    if not all(isinstance(part, dict) for part in (facts, fit, sizes)) or not {"name", "fingerprint"} <= {
        *facts
    }:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} lacks the base, fit or retro part of a fitted model. Copy the "
            f"folder again."
        )
    if base is None:
        base = load_base(facts["name"]).model
    check_fingerprint(base, facts["name"], facts["fingerprint"], f"Model {folder.name!r}")
    return FittedRetro(base, from_dict(RetroConfig, sizes), from_dict(FitConfig, fit), facts["name"])


def _cross_attention(kind: type, config: RetroConfig) -> Any:
    """A ChunkedCrossAttention, or the encoder's ChunkAttention, of a model with this config."""
    c = config
    if kind is ChunkedCrossAttention:
        buckets, heads, lowest = c.dec_cca_pos_bias_num_buckets, c.dec_num_heads, 2 * c.chunk_size - 1
        widths, qkv = (c.dec_hidden_dim, c.enc_hidden_dim), c.dec_qkv_dim
        more, lowest = {"chunk_size": c.chunk_size}, lowest - buckets
    else:
        buckets, heads, lowest = c.enc_ca_pos_bias_num_buckets, c.enc_num_heads, 1 - c.chunk_size
        widths, qkv, more = (c.enc_hidden_dim, c.dec_hidden_dim), c.enc_qkv_dim, {}
    bias = PositionBias(buckets, heads, lowest, True, None)
    core = AttentionCore(bias, qkv, widths[0], heads, c.dropout_p, scaled=True)
    return kind(*widths, core, qkv, True, **more)


# --------------------------------------------------------------------------------------------- starts


@torch.no_grad()
def init_new_weights(model: FittedRetro, calibration: Tensor | None = None) -> None:
    """Initial values of encoder and CCA, by `model.fit.start`. The last projection of each CCA is 0, so all
    of them write exactly 0 into the base; what they differ in is what there is to write once it is not.

    zero   matrices N(0, 1/sqrt(fan in)): what to read has to be discovered
    base   queries, keys and values of each CCA are those of the base's self-attention in that layer, as if
           every key were at the query's own position
    copy   as zero, then `start_copying`, which needs `calibration`
    """
    mine = [model.cca, model.encoder.asking if model.fit.encoder == "base" else model.encoder]
    for part in mine:
        for name, module in part.named_modules():
            if isinstance(module, PositionBias):
                nn.init.zeros_(module.relative_attention_bias.weight)
            elif isinstance(module, nn.Linear) and name.endswith(("final_proj", "wo")):
                nn.init.zeros_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
    if model.fit.start == "zero":
        return
    if model.fit.start == "base":
        layers = decoder_layers(model.lm)
        for index, cca in model.cca.items():
            _copy_attention(cca, layers[int(index)], model.config)
        return
    if calibration is None:
        raise InputError(
            "Starting CCA as copying heads needs some text, got none. Give calibration, ids (b, n) of some "
            "thousand tokens, or take another fit.start."
        )
    start_copying(model, calibration.to(model.device))


def _copy_attention(cca: ChunkedCrossAttention, layer: nn.Module, config: RetroConfig) -> None:
    """The projections of a layer's self-attention, behind the scale of the norm before it.

    Rotary positions are left out: every key is read as one at the query's own position. So are biases, which
    our projections do not have. A LayerNorm takes the mean away, which ours does not; the matrices do it
    instead.
    """
    q, k, v = _projections(_attention_of(layer), config)
    norm = next((getattr(layer, name) for name in _NORMS_BEFORE_ATTENTION if hasattr(layer, name)), None)
    if norm is not None:
        q, k, v = (w * norm.weight for w in (q, k, v))
        if isinstance(norm, nn.LayerNorm):
            q, k, v = (w - w.mean(dim=1, keepdim=True) for w in (q, k, v))
    cca.q_proj.weight.copy_(q)
    cca.kv_proj.weight.copy_(torch.cat([k, v]))


def _projections(attention: nn.Module, config: RetroConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (h*d_head, d) of an attention module. Heads of keys and values that several
    query heads share are repeated for each of them.

    Raises InputError for a module that keeps them in none of the known ways.
    """
    heads, width = config.dec_num_heads, config.dec_qkv_dim
    part = {name: module for name, module in attention.named_modules() if hasattr(module, "weight")}

    def first(*names: str) -> Tensor | None:
        found = [m for n, m in part.items() if n.rpartition(".")[2] in names]
        if not found:
            return None
        # GPT-2's Conv1D keeps its matrix the other way round.
        return found[0].weight.T if type(found[0]).__name__ == "Conv1D" else found[0].weight

    if (q := first("q_proj")) is not None:
        k, v = first("k_proj"), first("v_proj")
    elif (joint := first("c_attn", "qkv_proj")) is not None:
        shared = (len(joint) - width) // 2
        q, k, v = joint.split([width, shared, shared])
    elif (joint := first("query_key_value")) is not None and len(joint) == 3 * width:
        q, k, v = rearrange(joint, "(h three d) e -> three (h d) e", three=3, h=heads)
    else:
        q = None
    if q is None or k is None or v is None:
        raise InputError(
            f"Cannot start CCA from {type(attention).__name__}: where it keeps its projections is not known. "
            "Take another fit.start."
        )
    times = width // len(k)  # query heads that share one head of keys and values
    size = width // heads
    k, v = (
        rearrange(w, "(h d) e -> h d e", d=size).repeat_interleave(times, 0).flatten(0, 1) for w in (k, v)
    )
    return q, k, v


@torch.no_grad()
def start_copying(model: FittedRetro, calibration: Tensor) -> None:
    """Let half of the CCA heads begin as induction heads that read neighbours, as
    `retro_core.model.start_copying` does for models from scratch: a key says which tokens stood before it, a
    query which tokens were last written, a value which token stands there. What to do with that token is
    left to training, as the last projection is 0.

    A base's embeddings are no random vectors, and its stream in the middle is no longer an embedding. So a
    token's code, what keys and queries agree on, is its embedding in its directions of most variance, made
    white; and all projections are ridge regressions from what they read, on `calibration`, ids (b, n)
    without padding, to these codes. In the small encoder heads that look one and two tokens back write what
    they see into the directions in which embeddings vary least.
    """
    c = model.config
    size, width = c.dec_qkv_dim // c.dec_num_heads, c.enc_hidden_dim
    count = min(c.enc_num_heads, c.dec_num_heads, width // size) // 2
    count = max(1, count - count % 2)
    embeddings = model.lm.get_input_embeddings().weight.float()
    codes, rest = _codes(embeddings, count * size)
    # Half for the last token, half for the one before it.
    once, twice = codes.split([(count + 1) // 2 * size, count // 2 * size], dim=1)
    if isinstance(model.encoder, NeighbourEncoder):
        _look_back(model.encoder, codes, rest, count, c)

    length = 2 * c.chunk_size
    streams: dict[int, Tensor] = {}
    run = _Pass(model, lambda index, stream: streams.__setitem__(index, stream.float()))
    with _running(run):
        model.lm.base_model(input_ids=calibration, use_cache=False)
    texts = calibration[:, : calibration.shape[1] // length * length].reshape(1, -1, 1, length)
    if not texts.numel():
        raise InputError(
            f"The calibration text has {calibration.shape[1]} tokens in a row, expected at least "
            f"{length}, as "
            "many as a neighbour. Give longer texts."
        )
    chunk = torch.zeros(1, texts.shape[1], c.chunk_size, c.dec_hidden_dim).to(embeddings)
    states = model.encoder(texts, None, chunk, None)[-1].float()[0, :, 0]
    tokens = texts[0, :, 0]

    one_back, two_back, here = tokens[:, 1:-1], tokens[:, :-2], tokens[:, 2:]
    # The parts of one head: its share of the codes of both tokens.
    shares = [once.shape[1] // count, twice.shape[1] // count]
    for index, cca in model.cca.items():
        stream = streams[int(index)]
        read, asked = cca.kv_ln(states)[:, 2:], cca.ln(stream)[:, 1:]
        keys = _ridge(read.flatten(0, 1), torch.cat([once[one_back], twice[two_back]], dim=-1).flatten(0, 1))
        values = _ridge(read.flatten(0, 1), codes[here].flatten(0, 1))
        now = torch.cat([once[calibration[:, 1:]], twice[calibration[:, :-1]]], dim=-1)
        queries = _ridge(asked.flatten(0, 1), now.flatten(0, 1))
        for head in range(count):
            rows = slice(head * size, (head + 1) * size)
            a = torch.arange(shares[0] * head, shares[0] * (head + 1))
            b = once.shape[1] + torch.arange(shares[1] * head, shares[1] * (head + 1))
            mine = torch.cat([a, b])
            cca.q_proj.weight[rows] = _SHARPNESS * queries[:, mine].T.to(cca.q_proj.weight)
            cca.kv_proj.weight[: c.dec_qkv_dim][rows] = keys[:, mine].T.to(cca.kv_proj.weight)
            cca.kv_proj.weight[c.dec_qkv_dim :][rows] = values[:, rows].T.to(cca.kv_proj.weight)


# Ridge regressions shrink what they estimate, so scores would be flat. On SmolLM2 half of the weight then
# lies behind the current token where it occurs in a neighbour at all; at 1.5 a fifth, at 12 hardly more.
_SHARPNESS = 6.0


def _codes(embeddings: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """embeddings (v, d) -> codes (v, count) of unit variance; the directions they leave (d, d - count)."""
    centred = embeddings - embeddings.mean(dim=0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    mixed = torch.linalg.qr(torch.randn(count, count)).Q.to(embeddings)  # heads shall get equal shares
    kept = directions[:, -count:] / variances[-count:].clamp(min=1e-12).sqrt()
    return centred @ kept @ mixed, directions[:, : embeddings.shape[1] - count]


def _look_back(
    encoder: NeighbourEncoder, codes: Tensor, rest: Tensor, count: int, config: RetroConfig
) -> None:
    """Half of `count` heads of the encoder's first layer see the token before, half the one before that."""
    attention = encoder.layers[0]["0"]
    core = attention.multi_head_attention
    size, qkv = config.enc_qkv_dim // config.enc_num_heads, config.enc_qkv_dim
    embeddings = encoder.enc_embs.weight.float()
    seen = _ridge(attention.ln(embeddings), codes)  # (d, count * size)
    loudness = embeddings.pow(2).mean().sqrt()
    for head in range(min(count, rest.shape[1] // size)):
        rows = slice(head * size, (head + 1) * size)
        back = 1 if head < (count + 1) // 2 else 2
        bucket = core.positional_bias.buckets(torch.tensor(-back))
        core.positional_bias.relative_attention_bias.weight[bucket, head] = 10.0  # e^10 outweighs all others
        attention.qkv_proj.weight[rows] = 0
        attention.qkv_proj.weight[2 * qkv :][rows] = seen[:, rows].T.to(attention.qkv_proj.weight)
        core.final_proj.weight[:, rows] = (loudness * rest[:, rows]).to(core.final_proj.weight)


def _ridge(x: Tensor, y: Tensor, strength: float = 1e-3) -> Tensor:
    """x (N, p), y (N, q) -> the matrix (p, q) that makes y of x with the least squared error."""
    gram = x.T @ x
    gram.diagonal().add_(strength * gram.diagonal().mean())
    return torch.linalg.solve(gram, x.T @ y)
