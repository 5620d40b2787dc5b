"""One reading against Retro[Off], in numbers with intervals: what a point of a sweep and a comparator come
to."""

from dataclasses import dataclass

from retro_core.evaluation.losses import TokenLosses
from retro_core.evaluation.statistics import Interval
from retro_core.evaluation.summary import BASE, difference, summarise_reading


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


def gain(losses: TokenLosses, name: str, against: str = BASE, seed: int = 0) -> Gain:
    """Of the reading `name` of these tokens."""
    mean, change = summarise_reading(losses, name, seed), difference(losses, name, against, seed)
    return Gain(
        nats=mean.nats,
        ci95=mean.ci95,
        bpb=mean.bpb,
        perplexity=mean.perplexity,
        minus_off=change.nats,
        minus_off_ci95=change.ci95,
        ratio=change.ratio,
        ratio_ci95=change.ratio_ci95,
        worse=change.worse,
    )
