"""What a forward pass refuses, in sentences instead of tracebacks.

Shapes and types are looked at on every device. Values are looked at on the CPU only: on an accelerator that
would make the host wait for the device at every token, so there ids are to be checked where text becomes ids.
"""

import math

import torch
from torch import Tensor

from indexing.errors import CheckpointError, InputError
from retro_core.config import RetroConfig

_ID_TYPES = (torch.int64, torch.int32)  # what an embedding table can be asked for
_IGNORED_LABEL = -100  # torch's own mark for "no label here"


def check_inputs(
    config: RetroConfig,
    input_ids: Tensor,
    neighbour_ids: Tensor | None = None,
    input_mask: Tensor | None = None,
    neighbour_mask: Tensor | None = None,
    labels: Tensor | None = None,
    encoded: Tensor | None = None,
    past: int = 0,
) -> None:
    """Raise InputError for the first thing a model of this config cannot read.

    input_ids (b, n), the tokens after `past` earlier ones that a cache holds · neighbour_ids (b, l, k, r) of
    all complete chunks so far, l = (past + n) // m, or rounded up · input_mask (b, n) · neighbour_mask
    (b, l, k, r) · labels (b, n), ids or -100, or (b, n, v), probabilities · encoded (b, l', k, r, d_enc).
    """
    _check_ids("input_ids", input_ids, ("b", "n"))
    batch, n = input_ids.shape
    if n == 0:
        raise InputError("Expected at least one token, got an empty sequence. Give some text.")
    if batch == 0:
        raise InputError("Expected at least one sequence, got a batch of 0. Give some text.")
    _check_vocabulary("input_ids", input_ids, config.num_embeddings)
    if input_mask is not None:
        _check_mask("input_mask", input_mask, "input_ids", input_ids)
    if labels is not None:
        _check_labels(labels, input_ids, config.num_embeddings)
    if neighbour_ids is None:
        if neighbour_mask is not None:
            raise InputError("Got a neighbour_mask without neighbour_ids. Give both, or neither.")
        return
    _check_neighbours(config, input_ids, neighbour_ids, past)
    if neighbour_mask is not None:
        _check_mask("neighbour_mask", neighbour_mask, "neighbour_ids", neighbour_ids)
    if encoded is not None:
        _check_encoded(encoded, neighbour_ids, config.enc_hidden_dim)


def check_logits(logits: Tensor) -> None:
    """Raise CheckpointError if not all scores of the next token, logits (..., v), are numbers."""
    if not math.isfinite(logits.max().item()):  # nan is the largest there is; -inf only forbids
        raise CheckpointError(
            "The model's scores for the next token are not all numbers: its weights are damaged, or half "
            "precision is too narrow for them. Load it in float32, or use an earlier checkpoint."
        )


def _check_neighbours(config: RetroConfig, input_ids: Tensor, neighbour_ids: Tensor, past: int) -> None:
    _check_ids("neighbour_ids", neighbour_ids, ("b", "l", "k", "r"))
    m, total = config.chunk_size, past + input_ids.shape[1]
    if neighbour_ids.shape[0] != input_ids.shape[0]:
        raise InputError(
            f"input_ids has {input_ids.shape[0]} sequences, but neighbour_ids has neighbours for "
            f"{neighbour_ids.shape[0]}. Give each sequence its own, (b, l, k, r) with the same b."
        )
    if neighbour_ids.shape[1] not in (total // m, -(-total // m)):
        raise InputError(
            f"{total} tokens have {total // m} complete chunks of {m}, got neighbours for "
            f"{neighbour_ids.shape[1]}. Give neighbours (b, {total // m}, k, r)."
        )
    _same_device("neighbour_ids", neighbour_ids, input_ids)
    # Those of chunks that a cache holds were looked at when it took them in.
    _check_vocabulary("neighbour_ids", neighbour_ids[:, past // m :], config.num_embeddings)


def _check_ids(name: str, ids: Tensor, axes: tuple[str, ...]) -> None:
    if not isinstance(ids, Tensor):
        raise InputError(
            f"{name} must be a torch tensor ({', '.join(axes)}) of token ids, got a {type(ids).__name__}. "
            f"Give torch.tensor(…)."
        )
    if ids.dtype not in _ID_TYPES:
        raise InputError(
            f"{name} must hold token ids, whole numbers of type int64, got {_type(ids)}. Convert them with "
            f".long()."
        )
    if ids.dim() != len(axes):
        hint = f" Add the axis of sequences: {name}[None]." if ids.dim() == len(axes) - 1 else ""
        raise InputError(
            f"{name} must have {len(axes)} axes ({', '.join(axes)}), got shape {list(ids.shape)}.{hint}"
        )


def _check_vocabulary(name: str, ids: Tensor, size: int) -> None:
    if not _readable(ids):
        return
    lowest, highest = (edge.item() for edge in torch.aminmax(ids))
    if lowest < 0 or highest >= size:
        raise InputError(
            f"Token id {lowest if lowest < 0 else highest} is outside the model's vocabulary of {size} "
            f"(in {name}). Use the tokenizer that belongs to the model."
        )


def _check_labels(labels: Tensor, input_ids: Tensor, size: int) -> None:
    if labels.dim() == 3 and labels.is_floating_point():
        if labels.shape != (*input_ids.shape, size):
            raise InputError(
                f"Expected labels of probabilities to have the shape {(*input_ids.shape, size)}, (b, n, "
                f"vocabulary), got {tuple(labels.shape)}. Give one for each token of the vocabulary."
            )
        return
    _check_ids("labels", labels, ("b", "n"))
    if labels.dtype != torch.int64:
        raise InputError(f"labels must be of type int64, got {_type(labels)}. Convert them with .long().")
    _same_shape("labels", labels, "input_ids", input_ids)
    if _readable(labels):
        wrong = labels[((labels < 0) | (labels >= size)) & (labels != _IGNORED_LABEL)]
        if len(wrong):
            raise InputError(
                f"Label {wrong[0].item()} is neither in the model's vocabulary of {size} nor "
                f"{_IGNORED_LABEL}, which stands for none. Use the tokenizer that belongs to the model."
            )


def _check_mask(name: str, mask: Tensor, of: str, ids: Tensor) -> None:
    if not isinstance(mask, Tensor):
        raise InputError(
            f"{name} must be a torch tensor like {of}, True where there is a token, got a "
            f"{type(mask).__name__}. Give torch.tensor(…)."
        )
    _same_shape(name, mask, of, ids)


def _check_encoded(encoded: Tensor, neighbour_ids: Tensor, width: int) -> None:
    b, count, k, r = neighbour_ids.shape
    fits = encoded.dim() == 5 and (encoded.shape[0], *encoded.shape[2:]) == (b, k, r, width)
    if not fits or encoded.shape[1] > count:
        raise InputError(
            f"encoded must be (b, up to l, k, r, d_enc) = [{b}, up to {count}, {k}, {r}, {width}], got shape "
            f"{list(encoded.shape)}. Give RetroOutput.encoded of a text that begins alike."
        )


def _same_shape(name: str, tensor: Tensor, of: str, ids: Tensor) -> None:
    if tensor.shape != ids.shape:
        raise InputError(
            f"{name} must have the shape of {of}, {list(ids.shape)}, got {list(tensor.shape)}. "
            "Give one value for each token."
        )
    _same_device(name, tensor, ids)


def _same_device(name: str, tensor: Tensor, ids: Tensor) -> None:
    if tensor.device != ids.device:
        raise InputError(
            f"{name} is on {tensor.device}, but input_ids is on {ids.device}. Move both to one device."
        )


def _readable(ids: Tensor) -> bool:
    """Values can be looked at without making anything wait, and there are some."""
    return ids.device.type == "cpu" and ids.numel() > 0 and not torch.compiler.is_compiling()


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
