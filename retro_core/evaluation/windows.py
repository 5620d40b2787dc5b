"""The short form that training uses: held-out loss of the windows of a data set, On, Off and random, without
looking into anything but the neighbours that are stored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from indexing.errors import InputError
from retro_core.dataset import Batch, RetroDataset
from retro_core.evaluation.statistics import Interval, ratio_of_sums
from retro_core.model import Retro


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
    on_minus_off_ci95: Interval | None
    random_minus_off_ci95: Interval | None


@torch.inference_mode()
def window_losses(
    model: Retro,
    data: RetroDataset,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 4,
) -> list[WindowLoss]:
    """Losses of the held-out windows (or `limit` of them, drawn with `seed`), all tokens that have a label.

    Tokens of a document's first chunk read nothing and count too: they are part of the text. Random
    neighbours are those of a chunk of another document, so they are real text about something else.

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
        batch = data.collate(chosen)
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
    documents = sorted({w.document for w in losses})
    place = {document: i for i, document in enumerate(documents)}
    sums = {name: np.zeros(len(documents)) for name in ("tokens", "on", "off", "random")}
    for window in losses:
        for name, values in sums.items():
            values[place[window.document]] += getattr(window, name)
    tokens, off = sums["tokens"], sums["off"]
    means = {name: float(sums[name].sum() / tokens.sum()) for name in ("on", "off", "random")}
    return Probe(
        documents=len(documents),
        tokens=int(tokens.sum()),
        **means,
        on_minus_off_ci95=ratio_of_sums(sums["on"] - off, tokens, seed).ci95,
        random_minus_off_ci95=ratio_of_sums(sums["random"] - off, tokens, seed).ci95,
    )
