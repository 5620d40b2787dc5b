"""One reading against Retro[Off], in numbers with intervals: what a point of a sweep and a comparator come
to."""

import math
from dataclasses import dataclass

import numpy as np

from retro_core.evaluation.losses import TokenLosses
from retro_core.evaluation.statistics import Interval, ratio_of_sums

OFF = "off"


@dataclass(frozen=True)
class Gain:
    """Intervals are the middle 95 % over documents drawn with replacement; None with fewer than two
    documents.

    nats, ci95          a token
    bpb                 bits per byte of text; None without a tokenizer
    perplexity          e to the nats a token
    minus_off, minus_off_ci95  nats a token less those of Retro[Off]: below 0 where reading helps
    ratio, ratio_ci95   of the perplexities
    worse               share of the tokens that are less likely than under Retro[Off]
    """

    nats: float
    ci95: Interval | None
    bpb: float | None
    perplexity: float
    minus_off: float
    minus_off_ci95: Interval | None
    ratio: float
    ratio_ci95: Interval | None
    worse: float


def gain(losses: TokenLosses, name: str, against: str = OFF, seed: int = 0) -> Gain:
    """Of the reading `name` of these tokens."""
    nats, plain = losses.nats[name], losses.nats[against]
    counts = losses.summed(np.ones(len(losses)))
    mean = ratio_of_sums(losses.summed(nats), counts, seed)
    change = ratio_of_sums(losses.summed(nats - plain), counts, seed)
    num_bytes = int(losses.num_bytes.sum())
    return Gain(
        nats=mean.value,
        ci95=mean.ci95,
        bpb=float(nats.sum() / math.log(2) / num_bytes) if num_bytes else None,
        perplexity=math.exp(mean.value),
        minus_off=change.value,
        minus_off_ci95=change.ci95,
        ratio=math.exp(change.value),
        ratio_ci95=None if change.ci95 is None else (math.exp(change.ci95[0]), math.exp(change.ci95[1])),
        worse=float((nats > plain).mean()),
    )
