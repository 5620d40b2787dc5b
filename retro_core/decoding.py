"""A model made ready to write: one token at a time, on a processor, the time goes into reading the weights.

- On some processors a product with a single row runs on one core; as two products side by side it takes both.
  Whether that is so here is measured, with the model's own weights.
- With 8-bit weights there is a quarter to read. That changes the numbers, so it is only done when asked for.

Everything but the products is the model itself: the twin made here shares its modules' code and its weights.
"""

import copy
import time
import warnings
import weakref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indexing.errors import InputError
from retro_core.model import Retro

_PARTS = 2
_WORTH_IT = 0.9  # of the time that plain products take
_MOST_BYTES = 1 << 30  # split weights are a second copy
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
        known[int8] = (weights, _with(model, Int8Linear) if int8 else _split_if_faster(model))
    return known[int8][1] or model


def _version(model: Retro) -> tuple:
    return tuple((p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version) for p in model.parameters())


def _split_if_faster(model: Retro) -> Retro | None:
    """None where plain products are as good."""
    linears = _linears(model)
    size = sum(linear.weight.nbytes for linear in linears)
    if torch.get_num_threads() < _PARTS or size > _MOST_BYTES:
        return None
    twin = _with(model, SplitLinear)
    split = _linears(twin)
    plain_time, split_time = [], []
    for _ in range(3):  # whole rounds, since a weight that was just used is not read from memory again
        plain_time.append(_round(linears))
        split_time.append(_round(split))
    return twin if min(split_time) < _WORTH_IT * min(plain_time) else None


def _round(linears: list[nn.Module]) -> float:
    """Seconds of one product with a single row for each."""
    rows = [linear.weight.new_ones(1, linear.weight.shape[1]) for linear in linears]
    since = time.perf_counter()
    for linear, row in zip(linears, rows, strict=True):
        linear(row)
    return time.perf_counter() - since


def _with(model: Retro, kind: type[nn.Module]) -> Retro:
    """A twin whose decoder and output layer multiply by `kind`."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for module in (*twin.base.decoder.modules(), twin):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, kind(child.weight))
    return twin


def _linears(model: Retro) -> list[nn.Module]:
    kinds = (nn.Linear, SplitLinear)
    return [m for m in (*model.base.decoder.modules(), model.lm_head) if isinstance(m, kinds)]


class SplitLinear(nn.Module):
    """x W^T; a single row as products with parts of W side by side."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = weight
        rows = weight.shape[0]
        short = -rows % _PARTS  # the last part is filled up with zeros
        self.register_buffer(
            "parts", F.pad(weight, (0, 0, 0, short)).unflatten(0, (_PARTS, -1)).transpose(1, 2).contiguous()
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() != x.shape[-1]:
            return F.linear(x, self.weight)
        row = x.reshape(1, 1, -1).expand(_PARTS, -1, -1)
        return torch.bmm(row, self.parts).reshape(-1)[: self.weight.shape[0]].view(*x.shape[:-1], -1)


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
