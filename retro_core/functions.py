"""Five functions whose gradients are written by hand, because on a CPU what lies between the matrix products
costs a quarter of a training step when autograd composes it. The maths is the plain one of each docstring.

Where no gradient is recorded, or on an accelerator, torch's own kernels do the same.
"""

import math
import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NORM_EPSILON = 1e-8
IGNORED_LABEL = -100
_PIECE = 256  # rows of logits that are held at once
_ROWS = 1024  # rows of a feed-forward's width that are worked on at once, so that they stay in the cache


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """scale * x / (root mean square of x + 1e-8), over the last axis.

    The small number is added to the root, not under it, as in the reference.
    """
    if _by_hand(x, scale):
        return _RmsNorm.apply(x, scale)
    return x * (scale / _root_mean_square(x))


def _root_mean_square(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + NORM_EPSILON


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        inverse = _root_mean_square(x).reciprocal_()
        ctx.save_for_backward(x, scale, inverse)
        return (x * inverse).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, scale, inverse = ctx.saved_tensors
        width = x.shape[-1]
        products = (grad * x).view(-1, width)
        grad_scale = inverse.view(-1) @ products
        # d(1 / (rms + e)) / dx = -x / (width * rms * (rms + e)^2), nothing where x is 0
        rms = (inverse.reciprocal() - NORM_EPSILON) * width
        through_root = (products @ scale).view_as(inverse) * inverse.square() / rms.clamp(min=1e-30)
        return (grad * scale).mul_(inverse).addcmul_(x, through_root, value=-1), grad_scale


def by_distance(line: Tensor, queries: int, keys: int) -> Tensor:
    """(h, queries, keys) whose entry (i, j) is line[:, j - i + queries - 1], line (h, queries + keys - 1).

    Gradients are summed along the diagonals.
    """
    return _ByDistance.apply(line, queries, keys) if _by_hand(line) else _skewed(line, queries, keys)


def _skewed(line: Tensor, queries: int, keys: int) -> Tensor:
    # A line read again and again, each time one step longer than it is, shifts by one in each row.
    heads, length = line.shape
    rows = F.pad(line, (0, 1))[:, None].expand(-1, queries, -1).reshape(heads, -1)
    return rows[:, : queries * length].view(heads, queries, length)[:, :, queries - 1 :]


class _ByDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, line: Tensor, queries: int, keys: int) -> Tensor:
        return _skewed(line, queries, keys).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        heads, queries, keys = grad.shape
        length = queries + keys - 1
        total = grad.new_empty(heads, length)
        # The same skewing, of one head at a time: it stays in the processor's cache.
        shifted = grad.new_zeros(queries * (length + 1))
        place = shifted.as_strided((queries, keys), (length, 1), queries - 1)
        for head in range(heads):
            place.copy_(grad[head])
            torch.sum(shifted.view(queries, length + 1)[:, :length], dim=0, out=total[head])
        return total, None, None


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """softmax(scale * q k^T + bias) v. q (a, h, i, d), k and v (a, h, j, d), bias (h, i, j) or (a, h, i, j)
    -> (a, h, i, d). A bias of -inf hides a key; each row needs a visible one."""
    if _by_hand(q, k, v, bias):
        return _Attention.apply(q, k, v, bias, scale)
    bias = bias.to(q.dtype).expand(len(q), -1, -1, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


class _Attention(torch.autograd.Function):
    """Makes its weights again for the backward pass: those of all layers together are a sixth of a step's
    memory, and making them a fortieth of its time. So no weights outlive a call, and all share one place."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        # Heads cut out of one projection are copied into rows once here, or else in each product with them.
        q, k, v = (x.contiguous() for x in (q, k, v))
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale = scale
        return torch.bmm(_weights(q, k, bias, scale), v.flatten(0, 1)).view(q.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None]:
        q, k, v, bias = ctx.saved_tensors
        (a, h, i, d), j = q.shape, k.shape[2]
        grad = grad.reshape(-1, i, d)
        weights = _weights(q, k, bias, ctx.scale)
        grad_v = torch.bmm(weights.transpose(1, 2), grad)
        scores = torch.bmm(grad, v.view(-1, j, d).transpose(1, 2), out=_scratch("scores", (a * h, i, j), q))
        torch.ops.aten._softmax_backward_data.out(scores, weights, -1, weights.dtype, grad_input=scores)
        grad_q = torch.bmm(scores, k.view(-1, j, d)).mul_(ctx.scale)
        grad_k = torch.bmm(scores.transpose(1, 2), q.view(-1, i, d)).mul_(ctx.scale)
        grad_bias = None
        if ctx.needs_input_grad[3]:
            grad_bias = scores.view(a, h, i, j)
            grad_bias = grad_bias.clone() if bias.dim() == 4 else grad_bias.sum(dim=0)
        return grad_q.view(q.shape), grad_k.view(k.shape), grad_v.view(v.shape), grad_bias, None


def _weights(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> Tensor:
    """(a*h, i, j), valid until the next call. q and k (a, h, ., d) contiguous"""
    (a, h, i, _), j = q.shape, k.shape[2]
    weights = _scratch("weights", (a * h, i, j), q)
    weights.view(a, h, i, j).copy_(bias.expand(a, h, i, j))
    weights.baddbmm_(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=scale)
    return torch.softmax(weights, dim=-1, out=weights)


class _Places(threading.local):
    """Memory for what is large and short-lived. Fresh memory of that size comes from the kernel, filled with
    zeros, which takes as long as a product of matrices that fills it."""

    def __init__(self):
        self.held: dict[tuple[str, torch.dtype], Tensor] = {}


_places = _Places()


def _scratch(name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised tensor, the same memory for the same name: what was there before is lost."""
    size, held = math.prod(shape), _places.held.get((name, like.dtype))
    if held is None or held.numel() < size:
        held = _places.held[name, like.dtype] = like.new_empty(size)
    return held[:size].view(shape)


def gated_feed_forward(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """(gelu(x gate^T) * (x up^T)) down^T, gelu in its tanh form. x (..., d), gate and up (f, d), down (d, f)
    -> (..., d)"""
    if _by_hand(x, gate, up, down):
        return _GatedFeedForward.apply(x.reshape(-1, x.shape[-1]), gate, up, down).view(*x.shape[:-1], -1)
    return F.linear(F.gelu(F.linear(x, gate), approximate="tanh") * F.linear(x, up), down)


class _GatedFeedForward(torch.autograd.Function):
    """Goes through the rows in pieces, so that what is f wide need not travel to memory between two steps,
    and keeps two such tensors, not four: the backward pass makes the others again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        a, b = (x.new_empty(len(x), len(gate)) for _ in range(2))
        out = x.new_empty(len(x), len(down))
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            torch.mm(x[rows], gate.T, out=a[rows])
            torch.mm(x[rows], up.T, out=b[rows])
            torch.mm(F.gelu(a[rows], approximate="tanh").mul_(b[rows]), down.T, out=out[rows])
        ctx.save_for_backward(x, gate, up, down, a, b)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, down, a, b = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        learns = ctx.needs_input_grad[1]  # frozen weights need no gradient, which is half of the arithmetic
        made = [torch.zeros_like(weight) if learns else None for weight in (gate, up, down)]
        grad_gate, grad_up, grad_down = made
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            opened = F.gelu(a[rows], approximate="tanh")
            if learns:
                grad_down.addmm_(grad[rows].T, opened * b[rows])
            inner = grad[rows] @ down
            grad_b = opened.mul_(inner)
            grad_a = torch.ops.aten.gelu_backward(inner.mul_(b[rows]), a[rows], approximate="tanh")
            torch.mm(grad_a, gate, out=grad_x[rows]).addmm_(grad_b, up)
            if learns:
                grad_gate.addmm_(grad_a.T, x[rows])
                grad_up.addmm_(grad_b.T, x[rows])
        return grad_x, *made


def cross_entropy_in_pieces(
    hidden: Tensor, weight: Tensor, labels: Tensor, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy of an output layer, without ever holding all of its logits.

    hidden (b, n, d), weight (v, d), labels (b, n), -100 where there is none -> the mean over labels, or with
    reduction "none" (b, n).
    """
    flat, targets = hidden.flatten(0, 1), labels.flatten()
    if reduction == "none":
        losses = [
            F.cross_entropy(part @ weight.T, some, ignore_index=IGNORED_LABEL, reduction="none")
            for part, some in zip(flat.split(_PIECE), targets.split(_PIECE), strict=True)
        ]
        return torch.cat(losses).view_as(labels)
    return _CrossEntropyInPieces.apply(flat, weight, targets)


class _CrossEntropyInPieces(torch.autograd.Function):
    """The loss is the last step of a forward pass, so its gradient is known there up to one factor: that of
    each piece is made while the piece is there."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        for_hidden, for_weight, _ = ctx.needs_input_grad
        count = (targets != IGNORED_LABEL).sum()
        total = hidden.new_zeros((), dtype=torch.float32 if hidden.dtype.itemsize < 4 else hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        grad_weight = None
        for start in range(0, len(hidden), _PIECE):
            part, some = hidden[start : start + _PIECE], targets[start : start + _PIECE]
            counted, chosen = (some != IGNORED_LABEL)[:, None], some.clamp(min=0)[:, None]
            if part.dtype == weight.dtype == total.dtype and _in_full_precision(hidden):
                logits = torch.mm(part, weight.T, out=_scratch("logits", (len(part), len(weight)), part))
            else:
                logits = (part @ weight.T).to(total.dtype)
            picked = logits.gather(-1, chosen)
            highest = logits.amax(dim=-1, keepdim=True)
            sums = logits.sub_(highest).exp_().sum(dim=-1, keepdim=True)
            total += ((sums.log() + highest - picked) * counted).sum()
            if for_hidden or for_weight:  # softmax - one-hot, each row by its share of the mean
                share = counted / count
                logits.mul_(share / sums).scatter_add_(-1, chosen, -share.to(logits.dtype))
                grad = logits.to(hidden.dtype)
            if for_hidden:
                grad_hidden[start : start + _PIECE] = grad @ weight
            if for_weight and grad_weight is None:
                grad_weight = (grad.T @ part).to(weight.dtype)
            elif for_weight and hidden.device.type == "cpu":
                grad_weight.addmm_(grad.T, part)
            elif for_weight:  # mixed precision casts products, but none in place
                grad_weight += grad.T @ part
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        made = ctx.saved_tensors
        return *(None if gradient is None else gradient * grad for gradient in made), None


def _in_full_precision(tensor: Tensor) -> bool:
    """On a processor, and no products are cast."""
    return tensor.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def _by_hand(*tensors: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and tensors[0].device.type == "cpu"
        and any(tensor.requires_grad for tensor in tensors)
        and len({tensor.dtype for tensor in tensors}) == 1  # else precision is mixed, which torch sorts out
        and not torch.compiler.is_compiling()
    )
