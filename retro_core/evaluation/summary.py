"""What the losses of a probe come to: bits per byte, perplexity and their intervals, reading by reading.

With L the nats of all scored tokens, T their number and B their bytes:

    nats        L / T
    perplexity  exp(L / T)
    bpb         L / (B ln 2)

Means are over tokens, or bytes, not over documents. Intervals resample documents (see `statistics`). A
difference resamples both readings together: its interval is much narrower than those of the two would
suggest.
"""

import math
from dataclasses import dataclass

import numpy as np

from indexing.errors import InputError
from retro_core.evaluation.losses import TokenLosses
from retro_core.evaluation.statistics import Interval, bootstrap, ratio_of_sums

BASE = "off"  # what every other reading is compared with


@dataclass(frozen=True)
class ReadingSummary:
    """nats per token, with their 95 % interval · perplexity · bpb: bits per byte, with its interval; None if
    the bytes are not known"""

    nats: float
    ci95: Interval | None
    perplexity: float
    bpb: float | None
    bpb_ci95: Interval | None


@dataclass(frozen=True)
class Difference:
    """One reading less another one, negative where the first is better.

    nats      per token · ratio: of the perplexities, exp(nats); each with its 95 % interval
    bpb       bits per byte, with its interval; None if the bytes are not known
    worse     share of the tokens whose loss is higher in the first than in the second
    """

    nats: float
    ci95: Interval | None
    ratio: float
    ratio_ci95: Interval | None
    bpb: float | None
    bpb_ci95: Interval | None
    worse: float


@dataclass(frozen=True)
class DocumentLoss:
    """A line of the table of documents. bits: name of a reading -> bits of all its scored tokens · gain: bits
    that retrieval saves, off less on; None without these two"""

    document: int
    title: str
    tokens: int
    bytes: int
    bits: dict[str, float]
    gain: float | None


@dataclass(frozen=True)
class ProbeSummary:
    """documents that have a scored token, scored tokens, their bytes (None if not known)

    readings      name -> ReadingSummary
    differences   "NAME-off" -> Difference, of every reading but off
    worse         share of the tokens that On makes worse; None without On and Off
    per_document  in the order of the documents
    """

    documents: int
    tokens: int
    bytes: int | None
    readings: dict[str, ReadingSummary]
    differences: dict[str, Difference]
    worse: float | None
    per_document: list[DocumentLoss]


def summarise(losses: TokenLosses, seed: int = 0) -> ProbeSummary:
    """All that is said of a probe's readings; the same for the same seed."""
    others = [name for name in losses.nats if name != BASE] if BASE in losses.nats else []
    differences = {f"{name}-{BASE}": difference(losses, name, BASE, seed) for name in others}
    on_off = differences.get(f"on-{BASE}")
    num_bytes = int(losses.num_bytes.sum())
    return ProbeSummary(
        documents=len(losses.documents),
        tokens=len(losses),
        bytes=num_bytes or None,
        readings={name: summarise_reading(losses, name, seed) for name in losses.nats},
        differences=differences,
        worse=None if on_off is None else on_off.worse,
        per_document=per_document(losses),
    )


def summarise_reading(losses: TokenLosses, name: str, seed: int = 0) -> ReadingSummary:
    """Raises InputError if no reading has that name; so does `difference`."""
    nats, tokens, num_bytes = _sums(losses, _of(losses, name))
    mean = ratio_of_sums(nats, tokens, seed)
    bpb = ratio_of_sums(nats / math.log(2), num_bytes, seed) if num_bytes.any() else None
    return ReadingSummary(
        nats=mean.value,
        ci95=mean.ci95,
        perplexity=math.exp(mean.value),
        bpb=None if bpb is None else bpb.value,
        bpb_ci95=None if bpb is None else bpb.ci95,
    )


def difference(losses: TokenLosses, name: str, base: str = BASE, seed: int = 0) -> Difference:
    """`name` less `base`: negative nats, and a ratio below 1, where `name` is better."""
    by_token = _of(losses, name) - _of(losses, base)
    nats, tokens, num_bytes = _sums(losses, by_token)
    mean = ratio_of_sums(nats, tokens, seed)
    ratio = bootstrap(np.column_stack([nats, tokens]), lambda s: np.exp(s[..., 0] / s[..., 1]), seed)
    bpb = ratio_of_sums(nats / math.log(2), num_bytes, seed) if num_bytes.any() else None
    return Difference(
        nats=mean.value,
        ci95=mean.ci95,
        ratio=ratio.value,
        ratio_ci95=ratio.ci95,
        bpb=None if bpb is None else bpb.value,
        bpb_ci95=None if bpb is None else bpb.ci95,
        worse=float((by_token > 0).mean()),
    )


def per_document(losses: TokenLosses) -> list[DocumentLoss]:
    """Documents with their bits in every reading, in their order."""
    tokens = losses.summed(np.ones(len(losses)))
    num_bytes = losses.summed(losses.num_bytes)
    bits = {name: losses.summed(nats) / math.log(2) for name, nats in losses.nats.items()}
    return [
        DocumentLoss(
            document=document,
            title=losses.titles[document],
            tokens=int(tokens[row]),
            bytes=int(num_bytes[row]),
            bits={name: float(values[row]) for name, values in bits.items()},
            gain=float(bits["off"][row] - bits["on"][row]) if {"on", "off"} <= bits.keys() else None,
        )
        for row, document in enumerate(losses.documents.tolist())
    ]


def _of(losses: TokenLosses, name: str) -> np.ndarray:
    if name not in losses.nats:
        raise InputError(f"There is no reading {name!r}: this probe has {', '.join(losses.nats)}. Add it.")
    return losses.nats[name]


def _sums(losses: TokenLosses, nats: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By document: (D',) nats, tokens, bytes."""
    return losses.summed(nats), losses.summed(np.ones(len(losses))), losses.summed(losses.num_bytes)
