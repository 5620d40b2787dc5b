"""A model made ready to write: a few tokens at a time, the time goes into reading the weights.

- How fast a processor multiplies a few rows by a matrix depends on how it is asked: the library that torch
  calls may use one core, or leave out what a processor of another maker could do. Of a few ways to the same
  product the fastest for so many rows is measured, with the model's own weights, and used.
- With 8-bit weights there is a quarter to read. That changes the numbers, so it is only done when asked for.

Everything but the products is the model itself: the twin made here shares its modules' code and its weights.
"""

import copy
import math
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indexing.errors import InputError
from retro_core.model import Retro

_WORTH_IT = 0.9  # of the time that plain products take
_ROWS = (1, 2, 4, 8, 16)  # what is measured; for numbers between, the next larger one counts
_MOST_BYTES = 1 << 30  # packed weights are a second copy
_INT8_LEVELS = 127

# A twin lives as long as its model, and as long as the weights are those it was made of.
_twins: weakref.WeakKeyDictionary[Retro, dict[bool, tuple[tuple, Retro | None]]] = weakref.WeakKeyDictionary()


@torch.inference_mode()
def for_decoding(model: Retro, int8: bool = False) -> Retro:
    """The model, or a twin that computes the same faster for single tokens; made once for these weights.

    int8  8-bit weights in the decoder and the output layer: faster still, and not quite the same numbers
    Raises InputError if int8 is asked for where it cannot be had: on an accelerator, or for a model that is
    not `Retro` itself.
    """
    can = type(model) is Retro and model.device.type == "cpu" and not model.training
    if int8 and not (can and model.lm_head.weight.dtype == torch.float32):
        raise InputError(
            "8-bit weights are for RETRO models in float32 on a processor. Load the model so, or leave int8 "
            "off."
        )
    if not can:
        return model
    known = _twins.setdefault(model, {})
    weights = _version(model)
    if int8 not in known or known[int8][0] != weights:
        known[int8] = (weights, _with(model, Int8Linear) if int8 else _faster(model))
    return known[int8][1] or model


def _version(model: Retro) -> tuple:
    return tuple((p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version) for p in model.parameters())


Product = Callable[[Tensor], Tensor]  # x (n, i) -> (n, o)
Way = Callable[[Tensor], Product]  # weight (o, i) -> what multiplies by it


def plain(weight: Tensor) -> Product:
    return lambda x: F.linear(x, weight)


def as_columns(weight: Tensor) -> Product:
    return lambda x: (weight @ x.t()).t()


def by_core(weight: Tensor) -> Product:
    """Each core gives its part of the outputs, as far as they can be dealt out."""
    parts = weight.unflatten(0, (math.gcd(len(weight), torch.get_num_threads()), -1))
    return lambda x: torch.bmm(parts, x.t().expand(len(parts), -1, -1)).flatten(0, 1).t()


def packed(weight: Tensor) -> Product:
    """By oneDNN, with a copy of the weight in its own order; torch's compiler calls it so too."""
    own = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS[-1] // 2)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, own, None, "none", [], "")


def _faster(model: Retro) -> Retro | None:
    """A twin that multiplies a few rows in the fastest way; None where plain products are as good."""
    weights = [linear.weight for linear in _linears(model)]
    ways = [plain, as_columns, by_core]
    small = sum(weight.nbytes for weight in weights) <= _MOST_BYTES
    built = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if built and small and weights[0].dtype == torch.float32:
        ways.append(packed)
    fastest = _fastest(ways, weights)
    if all(way is plain for way in fastest.values()):
        return None
    return _with(model, lambda weight: FewRowsLinear(weight, fastest))


def _fastest(ways: Sequence[Way], weights: Sequence[Tensor]) -> dict[int, Way]:
    """By number of rows."""
    seconds: dict[int, dict[Way, float]] = {rows: {} for rows in _ROWS}
    for way in ways:
        products = [way(weight) for weight in weights]
        for rows in _ROWS:
            given = [weight.new_ones(rows, weight.shape[1]) for weight in weights]
            # Whole rounds, since a weight that was just used is not read from memory again.
            seconds[rows][way] = min(_round(products, given) for _ in range(3))
    return {
        rows: best if taken[best] < _WORTH_IT * taken[plain] else plain
        for rows, taken in seconds.items()
        for best in [min(taken, key=taken.__getitem__)]
    }


def _round(products: Sequence[Product], given: Sequence[Tensor]) -> float:
    """Seconds of all products."""
    since = time.perf_counter()
    for product, x in zip(products, given, strict=True):
        product(x)
    return time.perf_counter() - since


def _with(model: Retro, kind: Callable[[Tensor], nn.Module]) -> Retro:
    """A twin whose decoder and output layer multiply by `kind`."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for module in (*twin.base.decoder.modules(), twin):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, kind(child.weight))
    return twin


def _linears(model: Retro) -> list[nn.Module]:
    return [m for m in (*model.base.decoder.modules(), model.lm_head) if isinstance(m, nn.Linear)]


class FewRowsLinear(nn.Module):
    """x W^T. ways: what multiplies up to so many rows; more are a plain product."""

    def __init__(self, weight: Tensor, ways: Mapping[int, Way]):
        super().__init__()
        self.weight = weight
        made = {way: way(weight) for way in set(ways.values())}
        self._products = [made[ways[min(r for r in ways if r >= rows)]] for rows in range(max(ways) + 1)]

    def forward(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if rows >= len(self._products):
            return F.linear(x, self.weight)
        return self._products[rows](x.reshape(rows, -1)).reshape(*x.shape[:-1], -1)


class Int8Linear(nn.Module):
    """x W^T with each row of W in 8 bits and its own scale; x is brought to 8 bits as it comes."""

    def __init__(self, weight: Tensor):
        super().__init__()
        scales = weight.abs().amax(dim=1).double().clamp(min=1e-12) / _INT8_LEVELS
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            # The format will leave torch after the versions that we allow; products of a single row with its
            # successor (weights alone in 8 bits) take longer on a processor than those in 32 bits.
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
            rows = torch.quantize_per_channel(weight.float(), scales, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(rows, None)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.packed)
