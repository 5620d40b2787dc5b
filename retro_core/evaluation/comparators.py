"""What else could be done with the same datastore? Three ways to read that are not RETRO, on the same
held-out tokens, each as nats of every token, so that intervals, bytes and tables are made as for any
reading.

in_context  the nearest neighbour stands before the text of a plain language model, see `in_context`
knn_lm      the plain model mixed with what followed similar states, see `knn_lm`
copying     the plain model mixed with what follows the same words in the neighbours, see `copying`

All three change no weight. The plain model is Retro[Off], so that everything is the same but the way to
read; for in-context retrieval it may be another one with the same tokenizer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexing.errors import InputError, MismatchError
from indexing.tokenizer import Tokenizer
from retro_core.evaluation import in_context, knn_lm
from retro_core.evaluation.copying import CopyWeights, copied_shares, copy_losses
from retro_core.evaluation.gains import Gain, gain
from retro_core.evaluation.held_out import HeldOut
from retro_core.evaluation.losses import TokenLosses, collect, token_losses
from retro_core.evaluation.readings import off, on
from retro_core.evaluation.searching import Searchable, asked, reading, search_all
from retro_core.evaluation.statistics import Interval, bootstrap
from retro_core.model import Retro

IN_CONTEXT, KNN_LM, COPYING = "in_context", "knn_lm", "copying"
COMPARATORS = (IN_CONTEXT, KNN_LM, COPYING)
ON, OFF, READER = "on", "off", "reader"
ON_IN_STORE, COPYING_WITH_ON = "on_in_store", "copying_with_on"


@dataclass(frozen=True)
class ComparatorEvent:
    """`done` of `total` of a stage: "off", "in_context", "knn_lm" and "copying" in scored tokens,
    "knn_store" in tokens of the datastore."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Compared:
    """gain: against Retro[Off] · on_minus_this, ci95: nats a token of Retro[On] less those of this, below 0
    where RETRO is better · share_of_gain, ci95: what this gains over Off ÷ what On gains, 1 where it is as
    much; None where On gains nothing · read_per_token: tokens that the model read for one that was scored"""

    gain: Gain
    on_minus_this: float
    on_minus_this_ci95: Interval | None
    share_of_gain: float | None
    share_of_gain_ci95: Interval | None
    read_per_token: float


@dataclass(frozen=True)
class InContext:
    """num_neighbours, each N or, with `continuation`, N + F · longest: tokens that the model reads at once ·
    reader: name of the plain model, "" for Retro[Off]; reader_off: what that has without any context"""

    compared: Compared
    num_neighbours: int
    continuation: bool
    longest: int
    reader: str
    reader_off: Gain | None


@dataclass(frozen=True)
class KnnLm:
    """weights: for each half of the documents what was chosen on the other · store: which tokens have keys ·
    on_in_store: Retro[On] where it may read only the documents that have keys, so that both know the same"""

    compared: Compared
    num_neighbours: int
    weights: list[knn_lm.KnnWeights]
    store: knn_lm.StoreFacts
    on_in_store: Gain


@dataclass(frozen=True)
class Copying:
    """weights: for each half of the documents what was fitted on the other · num_neighbours: looked into ·
    with_on: Retro[On] in the place of Off: what copying still adds is what On left uncopied"""

    compared: Compared
    num_neighbours: int
    weights: list[CopyWeights]
    with_on: Gain


@dataclass(frozen=True)
class Comparators:
    """on: Retro[On] on the same tokens. What was not asked for, or could not be, is None; `skipped` says
    why."""

    documents: int
    tokens: int
    off: Gain
    on: Gain
    in_context: InContext | None
    knn_lm: KnnLm | None
    copying: Copying | None
    skipped: dict[str, str]


def comparators(
    model: Retro,
    held_out: HeldOut,
    searchable: Searchable | None = None,
    num_neighbours: int | None = None,
    *,
    which: Sequence[str] = COMPARATORS,
    losses: TokenLosses | None = None,
    context_neighbours: int = 1,
    context_continuation: bool = True,
    reader: Retro | None = None,
    reader_name: str = "",
    knn_neighbours: int = knn_lm.NEIGHBOURS,
    knn_budget: int = knn_lm.BUDGET,
    limit: int | None = None,
    seed: int = 0,
) -> Iterator[ComparatorEvent]:
    """Events while it works; the generator returns (`Comparators`, TokenLosses with a reading for each).

    searchable      the datastore, of whose tokens kNN-LM makes keys; without one kNN-LM is left out
    num_neighbours  that On reads and copying looks into; None for all that are known
    losses          of these held-out documents, with "on" and "off", if they were made already
    context_neighbours, context_continuation  what stands before the text: so many neighbours, N + F or N only
    reader          plain language model for in-context retrieval, see `check_reader`; None for Retro[Off]
    knn_neighbours  keys looked up for each token
    knn_budget      tokens of the datastore that get keys
    limit           so many held-out documents, drawn with `seed`; None for all

    Costs, in tokens read for one scored: in-context about (retrieved + half a window) ÷ a chunk; kNN-LM one,
    and one for each key; copying none. Raises InputError for what cannot be compared.
    """
    unknown = set(which) - set(COMPARATORS)
    if unknown:
        raise InputError(
            f"There is no comparator {sorted(unknown)[0]!r}. Choose of {', '.join(COMPARATORS)}."
        )
    if reader is not None:
        check_reader(model, reader, reader_name)
    if limit is not None and limit < len(held_out.documents):
        held_out, losses = held_out.drawn(limit, seed), None
    k = held_out.num_neighbours if num_neighbours is None else num_neighbours
    if losses is None or not {ON, OFF} <= losses.nats.keys():
        windows = []
        for event in token_losses(model, held_out, [on(held_out, k), off()]):
            windows.append(event)
            yield ComparatorEvent(OFF, event.done, event.total)
        losses = collect(held_out, windows)
    rows = _Rows(held_out)
    if rows.total != len(losses):
        raise InputError(
            f"Expected losses of all {rows.total:,} tokens of these documents, got {len(losses):,}. "
            "Score all windows."
        )
    few = "There are fewer than two documents: weights are chosen on one half and used on the other."
    skipped = {name: few for name in (KNN_LM, COPYING) if name in which and len(losses.documents) < 2}
    if KNN_LM in which and searchable is None:
        skipped[KNN_LM] = "The datastore's own tokens are not at hand."

    found = dict.fromkeys(COMPARATORS)
    if IN_CONTEXT in which:
        reader_off = None
        nats, read = yield from _in_context(
            reader or model, held_out, rows, context_neighbours, context_continuation
        )
        losses = losses.with_reading(IN_CONTEXT, nats)
        if reader is not None:
            scored = collect(held_out, list(token_losses(reader, held_out, [off()])))
            losses = losses.with_reading(READER, scored.nats[OFF])
            reader_off = gain(losses, READER)
        found[IN_CONTEXT] = InContext(
            compared(losses, IN_CONTEXT, read / len(losses)),
            context_neighbours, context_continuation, held_out.window, reader_name, reader_off,
        )  # fmt: skip
    if KNN_LM in which and KNN_LM not in skipped:
        store = yield from _knn_store(model, held_out, searchable, knn_budget, seed)
        nats, weights = yield from _knn_lm(model, held_out, rows, losses, store, knn_neighbours, seed)
        losses = losses.with_reading(KNN_LM, nats)
        losses = yield from _on_in_store(model, held_out, searchable, losses, store, k)
        found[KNN_LM] = KnnLm(
            compared(losses, KNN_LM, (rows.read + store.facts.tokens) / len(losses)),
            knn_neighbours, weights, store.facts, gain(losses, ON_IN_STORE),
        )  # fmt: skip
    if COPYING in which and COPYING not in skipped:
        losses, weights = yield from _copying(held_out, losses, k, seed)
        found[COPYING] = Copying(
            compared(losses, COPYING, rows.read / len(losses)), k, weights, gain(losses, COPYING_WITH_ON)
        )
    result = Comparators(
        documents=len(losses.documents),
        tokens=len(losses),
        off=gain(losses, OFF),
        on=gain(losses, ON),
        **found,
        skipped=skipped,
    )
    return result, losses


def compared(losses: TokenLosses, name: str, read_per_token: float, seed: int = 0) -> Compared:
    """The reading `name` of tokens that have "on" and "off" too."""
    beside = gain(losses, ON, against=name, seed=seed)
    plain, read, this = (losses.summed(losses.nats[reading]) for reading in (OFF, ON, name))
    share = bootstrap(
        np.column_stack([plain - this, plain - read]),
        # Of draws in which On gains nothing a share means nothing.
        lambda sums: np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan),
        seed,
    )
    known = np.isfinite(share.value)
    return Compared(
        gain=gain(losses, name, seed=seed),
        on_minus_this=beside.minus_off,
        on_minus_this_ci95=beside.minus_off_ci95,
        share_of_gain=share.value if known else None,
        share_of_gain_ci95=share.ci95 if known else None,
        read_per_token=read_per_token,
    )


def check_reader(model: Retro, reader: Retro, name: str, tokenizers: Sequence[Tokenizer] = ()) -> None:
    """Raise MismatchError unless the two models read the same tokens. tokenizers: of both, where known"""
    sizes = [(m.config.num_embeddings, m.config.pad_token_idx) for m in (model, reader)]
    if sizes[0] != sizes[1] or len({tokenizer.fingerprint for tokenizer in tokenizers}) > 1:
        raise MismatchError(
            f"To compare losses token by token the model {name!r} must have the same tokenizer as the one "
            f"that is evaluated, but it has {sizes[1][0]:,} tokens, that one {sizes[0][0]:,}, or they differ "
            "in their words. Name another one, or none for the evaluated model without its neighbours."
        )


class _Rows:
    """Where each window's tokens stand in the table of all scored tokens. read: tokens that the plain model
    reads to score them"""

    def __init__(self, held_out: HeldOut):
        ordered = sorted(held_out.windows, key=lambda window: (window.document, window.first))
        ends = np.cumsum([len(window.scored) for window in ordered])
        self._first = {w: int(end) - len(w.scored) for w, end in zip(ordered, ends, strict=True)}
        self.total, self.read = int(ends[-1]), sum(window.stop - window.start for window in ordered)

    def of(self, window, first: int | None = None, count: int | None = None) -> slice:
        """Of the window's scored tokens, or of `count` of them from the document's token `first` on."""
        start = self._first[window] + (0 if first is None else first - window.first)
        return slice(start, start + (len(window.scored) if count is None else count))


def _in_context(
    model: Retro, held_out: HeldOut, rows: _Rows, num_neighbours: int, continuation: bool
) -> Iterator[ComparatorEvent]:
    """Returns (nats (T,), tokens read)."""
    some, places = [], []
    for window in held_out.windows:
        read = held_out.neighbours(window.document).tokens
        text = held_out.tokens(window.document)
        for context in in_context.contexts(
            text,
            read,
            window,
            held_out.chunk_size,
            held_out.pad_id,
            held_out.window,
            num_neighbours,
            continuation,
        ):
            some.append(context)
            places.append(rows.of(window, context.first, context.scored))
    nats, done = np.full(rows.total, np.nan), 0
    for number, losses in in_context.context_losses(model, some):
        nats[places[number]] = losses
        done += len(losses)
        yield ComparatorEvent(IN_CONTEXT, done, rows.total)
    return nats, sum(len(context.ids) - 1 for context in some)


def _knn_store(
    model: Retro, held_out: HeldOut, searchable: Searchable, budget: int, seed: int
) -> Iterator[ComparatorEvent]:
    """Returns the KeyStore."""
    building = knn_lm.build_store(model, searchable, held_out.window, budget, seed)
    while True:
        try:
            event = next(building)
        except StopIteration as end:
            return end.value
        yield ComparatorEvent("knn_store", event.done, event.total)


def _knn_lm(
    model: Retro,
    held_out: HeldOut,
    rows: _Rows,
    losses: TokenLosses,
    store: knn_lm.KeyStore,
    num_neighbours: int,
    seed: int,
) -> Iterator[ComparatorEvent]:
    """Returns (nats (T,), weights)."""
    distances = np.empty((rows.total, num_neighbours), dtype=np.float32)
    hits = np.empty(distances.shape, dtype=bool)
    for found in knn_lm.look_up(model, held_out, store, num_neighbours):
        place = rows.of(found.window)
        distances[place], hits[place] = found.distances, found.hits
        yield ComparatorEvent(KNN_LM, found.done, found.total)
    return knn_lm.knn_losses(losses.nats[OFF], distances, hits, losses.document, seed)


def _on_in_store(
    model: Retro,
    held_out: HeldOut,
    searchable: Searchable,
    losses: TokenLosses,
    store: knn_lm.KeyStore,
    num_neighbours: int,
) -> Iterator[ComparatorEvent]:
    """Returns the losses with one reading more: On within the documents that have keys."""
    allowed = searchable.within(np.unique(store.documents))
    found = search_all(
        held_out, asked(held_out, searchable), num_neighbours,
        lambda vectors, k, own: searchable.exact.search(vectors, k, own, allowed),
    )  # fmt: skip
    windows = []
    one = reading(ON_IN_STORE, searchable, found, num_neighbours)
    for event in token_losses(model, held_out, [one]):
        windows.append(event)
        yield ComparatorEvent(ON_IN_STORE, event.done, event.total)
    scored = collect(held_out, windows)
    return losses.with_reading(ON_IN_STORE, scored.nats[ON_IN_STORE])


def _copying(
    held_out: HeldOut, losses: TokenLosses, num_neighbours: int, seed: int
) -> Iterator[ComparatorEvent]:
    """Returns (the losses with two readings more, weights beside Off)."""
    shares, found, done = [], [], 0
    for number in losses.documents.tolist():
        read = held_out.neighbours(number).tokens[:, :num_neighbours]
        some, orders = copied_shares(held_out.tokens(number), read, held_out.chunk_size, held_out.pad_id)
        shares.append(some[1:])  # a document's first token is not scored
        found.append(orders[1:])
        done += len(orders) - 1
        yield ComparatorEvent(COPYING, done, len(losses))
    copied = np.concatenate(shares), np.concatenate(found), losses.document, seed
    nats, weights = copy_losses(losses.nats[OFF], *copied)
    with_on, _ = copy_losses(losses.nats[ON], *copied)
    return losses.with_reading(COPYING, nats).with_reading(COPYING_WITH_ON, with_on), weights
