"""Does retrieval help? Held-out loss with neighbours, without, and with neighbours of something else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from indexing.errors import InputError
from indexing.neighbours import Retriever
from indexing.retrievers import look_up_text
from retro_core.dataset import Batch, RetroDataset, Window
from retro_core.model import Retro

RESAMPLES = 2000


@dataclass(frozen=True)
class WindowLoss:
    """Summed nats of one window's tokens under Retro[On], Retro[Off] and random neighbours."""

    document: int
    tokens: int
    on: float
    off: float
    random: float


@dataclass(frozen=True)
class Probe:
    """Means in nats per token over all held-out tokens; interval by bootstrap over documents."""

    documents: int
    tokens: int
    on: float
    off: float
    random: float
    on_minus_off_ci95: tuple[float, float]
    random_minus_off_ci95: tuple[float, float]


@torch.inference_mode()
def window_losses(
    model: Retro,
    data: RetroDataset,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 4,
    retriever: Retriever | None = None,
) -> list[WindowLoss]:
    """Losses of the held-out windows (or `limit` of them, drawn with `seed`), all tokens that have a label.

    Tokens of a document's first chunk read nothing and count too: they are part of the text. Random
    neighbours are those of a chunk of another document, so they are real text about something else.

    retriever  looks up what Retro[On] reads, in tokens of the model; by default it reads the neighbours that
               `data` has

    Raises InputError if there is no token to predict.
    """
    rng = np.random.default_rng(seed)
    windows = data.windows
    if limit is not None and limit < len(windows):
        windows = [windows[i] for i in sorted(rng.choice(len(windows), limit, replace=False))]
    # Windows of equal length together: hardly any padding.
    order = sorted(range(len(windows)), key=lambda i: windows[i].stop - windows[i].start)
    neighbours = np.concatenate([np.asarray(rows[:, : data.num_neighbours]) for rows in data.neighbours])
    documents = data.documents()
    results: list[WindowLoss] = []
    for start in range(0, len(order), batch_size):
        chosen = [windows[i] for i in order[start : start + batch_size]]
        looked_up = [_looked_up(data, window, retriever) for window in chosen] if retriever else None
        batch = data.collate(chosen, looked_up)
        strange = []
        for window in chosen:
            rows = np.flatnonzero(documents != window.document)
            # A single document has nothing but itself.
            rows = rng.choice(rows if len(rows) else len(documents), window.stop - window.start)
            strange.append(data.retrieved_tokens(neighbours[rows]))
        on, off, random = (
            _summed(model, variant)
            for variant in (
                batch,
                Batch(batch.input_ids, batch.labels, None, batch.documents),
                data.collate(chosen, strange),
            )
        )
        counts = (batch.labels != -100).sum(dim=1).tolist()
        results += [
            WindowLoss(int(d), c, *values)
            for d, c, *values in zip(batch.documents.tolist(), counts, on, off, random, strict=True)
            if c
        ]
    if not results:
        raise InputError("The held-out documents have no token to predict. Give documents of some words.")
    return results


def _looked_up(data: RetroDataset, window: Window, retriever: Retriever) -> np.ndarray:
    """(l, k, r): what the retriever finds for a window."""
    found = look_up_text(retriever, data.tokens(window), data.chunk_size, data.num_neighbours, data.pad_id)
    return found.tokens


def _summed(model: Retro, batch: Batch) -> list[float]:
    read = None if batch.neighbour_ids is None else batch.neighbour_ids.to(model.device)
    out = model(
        batch.input_ids.to(model.device),
        read,
        batch.labels.to(model.device),
        loss_reduction="none",
        logits_to_keep=None,
    )
    return out.loss.double().sum(dim=1).tolist()


def probe(losses: Sequence[WindowLoss], seed: int = 0) -> Probe:
    """Means and 95 % intervals, resampling whole documents: windows of one document are not independent."""
    names = ("tokens", "on", "off", "random")
    documents = sorted({w.document for w in losses})
    place = {document: i for i, document in enumerate(documents)}
    sums = np.zeros((len(documents), len(names)))
    for window in losses:
        sums[place[window.document]] += [getattr(window, name) for name in names]
    rng = np.random.default_rng(seed)
    draws = sums[rng.integers(0, len(documents), (RESAMPLES, len(documents)))].sum(axis=1)
    total = sums.sum(axis=0)

    def interval(column: int) -> tuple[float, float]:
        low, high = np.percentile((draws[:, column] - draws[:, 2]) / draws[:, 0], [2.5, 97.5])
        return float(low), float(high)

    return Probe(
        documents=len(documents),
        tokens=int(total[0]),
        on=float(total[1] / total[0]),
        off=float(total[2] / total[0]),
        random=float(total[3] / total[0]),
        on_minus_off_ci95=interval(1),
        random_minus_off_ci95=interval(3),
    )
