"""All measurements of one model, one after the other, as one result; see docs/formats.md for what it holds.

Each part (readings of a probe, a sweep, a set of questions …) is kept in a folder as soon as it is done,
together with everything it depends on. Whoever measures the same again in that folder goes on where it
stopped: a part is computed again only if something that it depends on is another.

    DIR/parts/PROBE.PART.json     {"made_from", "seconds", "result"}
    DIR/parts/PROBE.losses.npz    nats of every token in each reading, which later parts use
    DIR/progress.json             how far it is, see `_Noted`
    DIR/so-far.json               what the finished parts come to, until there is the whole
    DIR/evaluation.json           the whole
"""

import dataclasses
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from indexing import paths
from indexing.errors import InputError
from indexing.files import lock, write_bytes, write_json
from indexing.neighbours import Retriever
from indexing.recall import compare
from indexing.tokenizer import Tokenizer
from retro_core.config import EvaluationConfig
from retro_core.evaluation import readings
from retro_core.evaluation.comparators import COPYING, IN_CONTEXT, KNN_LM, comparators
from retro_core.evaluation.held_out import HeldOut
from retro_core.evaluation.leakage import leakage
from retro_core.evaluation.losses import (
    TOKENS_AT_ONCE,
    Reading,
    TokenLosses,
    collect,
    token_losses,
)
from retro_core.evaluation.questions import (
    QuestionResult,
    answer_questions,
    read_questions,
    with_wrong_answers,
)
from retro_core.evaluation.relations import chunk_gains, relations
from retro_core.evaluation.result import (
    FORMAT,
    PARTS_DIR,
    PROGRESS_FILE,
    RESULT_FILE,
    SO_FAR_FILE,
    VERSION,
)
from retro_core.evaluation.searching import ChosenRows, Searchable, asked
from retro_core.evaluation.summary import summarise
from retro_core.evaluation.swap import SwapResult, fact_swap, read_prompts
from retro_core.evaluation.sweeps import KS, NPROBES, SHARES, SIZE_SEEDS, sweeps
from retro_core.model import Retro

READINGS = ("on", "off", "random", "shuffled", "bm25", "n_only", "f_only", "oracle")
# Part -> what it says. Those of a probe come first, in the order in which they are made.
PARTS = {
    "readings": "losses with neighbours, without, with random, shuffled, BM25's, half and the best ones",
    "leakage": "bits per byte over chunks by what they share with their neighbours",
    "relations": "gain against overlap and against distance",
    "k": "numbers of neighbours",
    "size": "parts of the datastore",
    "nprobe": "an index that does not find all",
    "index": "recall and time of indexes against comparing all",
    "copying": "a comparator: words that follow in the neighbours",
    "in-context": "a comparator: the neighbour before the text",
    "knn-lm": "a comparator: tokens that followed similar states",
    "questions": "answers to questions",
    "swap": "facts that change with the datastore",
}
QUICK = ("readings", "leakage", "relations")
QUICK_READINGS = ("on", "off", "random")
SHOWN_CHUNKS = 1000  # single chunks that a result has of each probe, drawn at random, for a picture of them
# What a prompt costs in one reading: answers to score, and some 20 tokens that are written one by one.
_TOKENS_A_PROMPT = 300
_INDEX_WORK = 3000.0  # tokens read in the time that building and asking two small indexes takes
# So that progress is seen to move also where there is little to read.
_FEWEST_AT_ONCE, _BATCHES = 1024, 40
_SEARCHED_READINGS = {"random", "bm25", "oracle"}
_NEEDS_SEARCH = ("k", "size", "nprobe", "index", "knn-lm")
_SECONDS_BETWEEN_NOTES, _SECONDS_BETWEEN_RESULTS = 1.0, 4.0
_COMPARATORS = {"copying": COPYING, "in-context": IN_CONTEXT, "knn-lm": KNN_LM}


@dataclass(frozen=True)
class Subject:
    """What is measured. facts: for the result's "model", JSON values"""

    name: str
    fingerprint: str
    model: Retro
    tokenizer: Tokenizer
    facts: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """Held-out documents to measure on. searchable: opens what they look into, for whoever searches again;
    None where only their neighbours are known · made_from: what the documents and their neighbours are, JSON
    values"""

    held_out: HeldOut
    searchable: Callable[[], Searchable] | None
    made_from: dict[str, Any]


@dataclass(frozen=True)
class Questions:
    """A set of questions, and what answers are looked up in."""

    name: str
    file: Path
    retriever: Retriever
    made_from: dict[str, Any]


@dataclass(frozen=True)
class Swap:
    """Prompts, and for each of their datastores what looks into it."""

    file: Path
    retrievers: dict[str, Retriever]
    made_from: dict[str, Any]


@dataclass(frozen=True)
class Began:
    """`kept`: it was made before and is not computed again. number: of `count` parts, from 1 · share: of all
    the work, what stands before this part"""

    of: str
    part: str
    number: int
    count: int
    kept: bool
    share: float = 0.0


@dataclass(frozen=True)
class Working:
    """`done` of `total` of a stage of a part. share: of all the work, from 0 to 1"""

    of: str
    part: str
    stage: str
    done: int
    total: int
    share: float = 0.0


@dataclass(frozen=True)
class Done:
    """left: about how many seconds the parts that remain will take; None as long as nothing was timed"""

    of: str
    part: str
    seconds: float
    left: float | None


@dataclass(frozen=True)
class Finished:
    result: dict[str, Any]


Event = Began | Working | Done | Finished
Work = Generator[tuple[str, int, int], None, dict[str, Any]]  # (stage, done, total) -> the part's result


@dataclass(frozen=True)
class _Part:
    """work: about how many tokens the model reads; 0 for next to nothing"""

    of: str
    name: str
    work: float
    made_from: dict[str, Any]
    compute: Callable[[], Work]


def measure(
    subject: Subject,
    probes: Sequence[Asked],
    config: EvaluationConfig,
    *,
    parts: Sequence[str] = tuple(PARTS),
    names: Sequence[str] = READINGS,
    questions: Sequence[Questions] = (),
    swap: Swap | None = None,
    folder: Path | None = None,
    command: str = "",
) -> Iterator[Event]:
    """Measure; the last event has the result.

    parts, names  which parts, and which readings, "on" and "off" always; what cannot be measured with what
                  there is says so under "skipped"
    folder        where parts are kept, for one program at a time; None keeps nothing

    Raises InputError for parts and readings that there are not, and if another program works in the folder.
    """
    for what, given, known in (("part", parts, PARTS), ("reading", names, READINGS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise InputError(f"There is no {what} {unknown[0]!r}. Choose of {', '.join(known)}.")
    doubled = [probe.held_out.name for probe in probes]
    if len(set(doubled)) < len(doubled):
        raise InputError(f"Expected probes of different names, got {', '.join(doubled)}. Rename one.")
    if folder is None:
        yield from _measure(subject, probes, config, parts, names, questions, swap, None, command)
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock(folder / RESULT_FILE):
            noted = _Noted(folder)
            for event in _measure(subject, probes, config, parts, names, questions, swap, folder, command):
                noted.take(event)
                yield event
    except TimeoutError as error:
        raise InputError(
            f"Another program is measuring in {folder}. Wait for it, or choose another folder."
        ) from error


def _measure(
    subject: Subject,
    probes: Sequence[Asked],
    config: EvaluationConfig,
    parts: Sequence[str],
    names: Sequence[str],
    questions: Sequence[Questions],
    swap: Swap | None,
    folder: Path | None,
    command: str,
) -> Iterator[Event]:
    names = [name for name in READINGS if name in {*names, "on", "off"}]
    skipped: dict[str, dict[str, str]] = {}
    measured = [_Measured(subject, probe, config, names, folder) for probe in probes]
    todo = [part for each in measured for part in each.parts(parts, skipped.setdefault(each.name, {}))]
    if "questions" in parts:
        todo += [_questions_part(subject, one, config) for one in questions]
    if "swap" in parts and swap is not None:
        todo.append(_swap_part(subject, swap, config))
    kept = {number: _kept(folder, part) for number, part in enumerate(todo)}
    results: dict[tuple[str, str], dict[str, Any]] = {}

    def so_far() -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": {"name": subject.name, "fingerprint": subject.fingerprint, **subject.facts},
            "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "command": command,
            "settings": {**config.to_dict(), "parts": [p for p in PARTS if p in parts], "readings": names},
            "probes": {each.name: each.result(results, dict(skipped[each.name])) for each in measured},
            "questions": {of: result for (of, name), result in results.items() if name == "questions"},
            "swap": results.get(("", "swap")),
        }

    seconds = worked = 0.0
    seen: dict[str, Any] = {}  # the last partial result that was written
    all_work = sum(part.work for part in todo) or 1.0
    for number, part in enumerate(todo):
        before = sum(one.work for one in todo[:number])
        yield Began(
            part.of, part.name, number + 1, len(todo), kept[number] is not None, before / all_work
        )  # fmt: skip
        if kept[number] is not None:
            results[part.of, part.name] = kept[number]["result"]
            continue
        begun, work = time.monotonic(), part.compute()
        while True:
            try:
                stage, done, total = next(work)
            except StopIteration as end:
                result = as_json(end.value)
                break
            inside = min(1.0, done / total) if total else 0.0
            yield Working(
                part.of, part.name, stage, done, total, (before + part.work * inside) / all_work
            )  # fmt: skip
            partial = next((each.partial for each in measured if each.name == part.of), {})
            if folder is not None and part.name == "readings" and partial and partial is not seen:
                seen = partial
                write_json(folder / SO_FAR_FILE, as_json(so_far()))
        took = time.monotonic() - begun
        seconds, worked = seconds + took, worked + part.work
        results[part.of, part.name] = result
        if folder is not None:
            write_json(
                _file_of(folder, part.of, part.name),
                {"made_from": part.made_from, "seconds": round(took, 1), "result": result},
            )
            write_json(folder / SO_FAR_FILE, so_far())
        ahead = sum(one.work for place, one in enumerate(todo) if place > number and kept[place] is None)
        yield Done(part.of, part.name, took, ahead * seconds / worked if worked else None)
    whole = so_far()
    if folder is not None:
        write_json(folder / RESULT_FILE, whole)
        (folder / SO_FAR_FILE).unlink(missing_ok=True)
    yield Finished(whole)


class _Noted:
    """Writes how far a measurement is beside its parts, for whoever looks at the folder:

    {"of", "part", "number", "count", "stage", "done", "total", "share", "left", "updated"}

    share of all the work · left: about how many seconds, null as long as nobody can tell · updated: seconds
    since 1970
    """

    def __init__(self, folder: Path):
        self._file = folder / PROGRESS_FILE
        self._head: dict[str, Any] = {}
        self._begun: tuple[float, float] | None = None  # (when, with which share) the first part was begun
        self._last = 0.0

    def take(self, event: Event) -> None:
        match event:
            case Began():
                self._head = {
                    "of": event.of, "part": event.part, "number": event.number, "count": event.count,
                }  # fmt: skip
                if not event.kept:  # what was made before took no time now
                    self._begun = self._begun or (time.monotonic(), event.share)
                    self._write(event.part, 0, 0, event.share)
            case Working():
                if time.monotonic() - self._last > _SECONDS_BETWEEN_NOTES:
                    self._write(event.stage, event.done, event.total, event.share)
            case Finished():
                self._write("done", 1, 1, 1.0)

    def _write(self, stage: str, done: int, total: int, share: float) -> None:
        self._last, left = time.monotonic(), None
        if self._begun is not None and share - self._begun[1] > 0.01:
            took, moved = self._last - self._begun[0], share - self._begun[1]
            left = took * (1 - share) / moved
        note = {"stage": stage, "done": done, "total": total, "share": share, "left": left}
        write_json(self._file, {**self._head, **note, "updated": time.time()})


class _Measured:
    """One probe, and what its parts share: the losses of all tokens, what can be searched."""

    def __init__(
        self,
        subject: Subject,
        asked: Asked,
        config: EvaluationConfig,
        names: Sequence[str],
        folder: Path | None,
    ):
        self.subject, self.asked, self.config, self.folder = subject, asked, config, folder
        self.held_out = asked.held_out
        if config.limit:
            self.held_out = self.held_out.drawn(config.limit, config.seed)
        self.name, self.names = asked.held_out.name, list(names)
        self.partial: dict[str, Any] = {}  # what the readings come to over the windows scored so far
        self._losses: TokenLosses | None = None
        self._searchable: Searchable | None = None
        few = config.sweep_limit or len(self.held_out.documents)
        self._few = self.held_out.drawn(few, config.seed)

    def parts(self, wanted: Sequence[str], skipped: dict[str, str]) -> Iterator[_Part]:
        """In the order of PARTS. Readings are made whenever something else needs their losses."""
        if self.held_out.searched is None:
            for name in _SEARCHED_READINGS.intersection(self.names):
                self.names.remove(name)
                skipped[name] = "It looks into a datastore, and here is only what a service finds."
        tokens, few = self.held_out.num_tokens, self._few.num_tokens
        half, m = self.held_out.window / 2, self.held_out.chunk_size
        work = {
            "readings": 2.0 * tokens * len(self.names),
            "k": 2.0 * few * (1 + sum(1 + k / 4 for k in KS)),
            "size": 2.0 * few * (2 + SIZE_SEEDS * (len(SHARES) - 1)),
            "nprobe": 2.0 * few * (2 + len(NPROBES)),
            "index": 0.2 * few + _INDEX_WORK,
            "copying": 0.5 * few,
            "in-context": few * (2 * m + half) / m,
            "knn-lm": 2.0 * few + self.config.knn_tokens,
        }
        computed = {
            "readings": self._readings,
            "leakage": self._leakage,
            "relations": self._relations,
            "k": lambda: self._sweep(ks=KS, shares=(), nprobes=()),
            "size": lambda: self._sweep(ks=(), shares=SHARES, nprobes=()),
            "nprobe": lambda: self._sweep(ks=(), shares=(), nprobes=NPROBES),
            "index": self._index,
            **{name: lambda name=name: self._comparator(name) for name in _COMPARATORS},
        }
        for name in PARTS:
            needed = name == "readings" and not {"leakage", "relations"}.isdisjoint(wanted)
            if name not in computed or not (name in wanted or needed):
                continue
            if name in _NEEDS_SEARCH and self.asked.searchable is None:
                skipped[name] = "Nothing is known but the neighbours, so nothing can be searched again."
                continue
            yield _Part(self.name, name, work.get(name, 0.0), self._made_from(name), computed[name])

    def result(
        self, results: dict[tuple[str, str], dict[str, Any]], skipped: dict[str, str]
    ) -> dict[str, Any]:
        """This probe's entry of the whole."""
        mine = {part: result for (of, part), result in results.items() if of == self.name}
        found = dict(mine.get("readings", self.partial))
        found |= mine.get("leakage", {}) | mine.get("relations", {})
        sweep = {part: mine[part][part] for part in ("k", "size", "nprobe") if part in mine}
        for part in ("k", "size", "nprobe"):
            skipped |= mine[part]["skipped"] if part in mine else {}
        if sweep:
            found["sweeps"] = sweep | {
                "documents": len(self._few.documents), "tokens": self._few.num_tokens,
            }  # fmt: skip
        if "index" in mine:
            found["index"] = mine["index"]
        compared = {name: mine[part][name] for part, name in _COMPARATORS.items() if part in mine}
        for part in _COMPARATORS:
            skipped |= mine[part]["skipped"] if part in mine else {}
        if compared:
            first = mine[next(part for part in _COMPARATORS if part in mine)]
            found["comparators"] = {
                key: first[key] for key in ("documents", "tokens", "off", "on")
            } | compared
        return found | {"skipped": skipped}

    def _made_from(self, part: str) -> dict[str, Any]:
        config = self.config
        made_from = {
            "version": VERSION,
            "model": self.subject.fingerprint,
            "probe": self.asked.made_from,
            **{name: getattr(config, name) for name in ("num_neighbours", "limit", "seed")},
            "window": self.held_out.window,
            "stride": self.held_out.stride,
        }
        if part == "readings":
            made_from["readings"] = list(self.names)
        if part not in QUICK:
            made_from["sweep_limit"] = config.sweep_limit
        if part == "knn-lm":
            made_from["knn_tokens"] = config.knn_tokens
        return made_from

    def searchable(self) -> Searchable:
        if self._searchable is None:
            self._searchable = self.asked.searchable()
        return self._searchable

    @property
    def _losses_file(self) -> Path:
        return _file_of(self.folder, self.name, "losses").with_suffix(".npz")

    def _readings(self) -> Work:
        windows, told = [], time.monotonic()
        at_once = min(TOKENS_AT_ONCE, max(_FEWEST_AT_ONCE, self.held_out.num_tokens // _BATCHES))
        for event in token_losses(self.subject.model, self.held_out, self._ways(), at_once):
            windows.append(event)
            if self.folder is not None and time.monotonic() - told > _SECONDS_BETWEEN_RESULTS:
                told = time.monotonic()
                self.partial = dataclasses.asdict(
                    summarise(collect(self.held_out, windows), self.config.seed)
                )
            yield "tokens", event.done, event.total
        self._losses = collect(self.held_out, windows)
        if self.folder is not None:
            _save_losses(self._losses_file, self._losses)
        return dataclasses.asdict(summarise(self._losses, self.config.seed))

    def losses(self) -> TokenLosses:
        """What "readings" made, now or before."""
        if self._losses is None:
            self._losses = _load_losses(self._losses_file)
        return self._losses

    def _ways(self) -> list[Reading]:
        held_out, k, seed = self.held_out, self.config.num_neighbours, self.config.seed
        on = readings.on(held_out, k)
        make: dict[str, Callable[[], Reading]] = {
            "on": lambda: on,
            "off": readings.off,
            "random": lambda: readings.random(held_out, k, seed),
            "shuffled": lambda: readings.shuffled(held_out, on, seed),
            "bm25": lambda: readings.bm25(held_out, k),
            "n_only": lambda: readings.n_only(held_out, on),
            "f_only": lambda: readings.f_only(held_out, on),
            "oracle": lambda: readings.oracle(held_out, k),
        }
        return [make[name]() for name in self.names]

    def _leakage(self) -> Work:
        yield "chunks", 0, 0
        found = leakage(self.losses(), self.held_out, seed=self.config.seed)
        return {
            "leakage": [dataclasses.asdict(point) for point in found.points],
            "slope": {name: dataclasses.asdict(one) for name, one in found.slope.items()},
            "leakage_neighbours": found.num_neighbours,
        }

    def _relations(self) -> Work:
        yield "chunks", 0, 0
        chunks = chunk_gains(self.losses(), self.held_out, self.config.num_neighbours)
        found = {name: dataclasses.asdict(one) for name, one in relations(chunks, self.config.seed).items()}
        rows = np.random.default_rng(self.config.seed).permutation(len(chunks))[:SHOWN_CHUNKS]
        return {"relations": found, "chunks": [dataclasses.asdict(chunks[row]) for row in sorted(rows)]}

    def _sweep(self, **points: Any) -> Work:
        events = sweeps(
            self.subject.model,
            self._few,
            self.searchable(),
            self.config.num_neighbours,
            seed=self.config.seed,
            **points,
        )
        found = yield from _followed(events)
        return dataclasses.asdict(found)

    def _index(self) -> Work:
        searchable = self.searchable()
        yield "embeddings", 0, 0
        by_document = asked(self._few, searchable)
        queries = np.concatenate([by_document[number] for number in sorted(by_document)])
        own = np.concatenate(
            [np.full(len(by_document[n]), self._few.documents[n].own) for n in sorted(by_document)]
        )
        asks = np.isfinite(queries).all(axis=1)
        rows = np.flatnonzero(searchable.allowed)
        found = yield from _followed(
            compare(
                ChosenRows(searchable.vectors, rows), searchable.documents[rows], queries[asks], own[asks]
            )
        )
        return dataclasses.asdict(found)

    def _comparator(self, part: str) -> Work:
        events = comparators(
            self.subject.model,
            self._few,
            self.searchable() if part == "knn-lm" else None,
            self.config.num_neighbours,
            which=(_COMPARATORS[part],),
            knn_budget=self.config.knn_tokens,
            seed=self.config.seed,
        )
        found, _ = yield from _followed(events)
        return dataclasses.asdict(found)


def _followed(events: Generator[Any, None, Any]) -> Work:
    """Events with `stage`, `done` and `total`, as triples; what the generator returned."""
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            return end.value
        yield event.stage, event.done, event.total


def _questions_part(subject: Subject, one: Questions, config: EvaluationConfig) -> _Part:
    some = with_wrong_answers(
        read_questions(one.file, config.question_limit or None, config.seed), seed=config.seed
    )

    def compute() -> Work:
        result: dict[str, Any] = {}
        for event in answer_questions(
            subject.model, subject.tokenizer, some, one.retriever, num_neighbours=config.num_neighbours
        ):
            if isinstance(event, QuestionResult):
                result = dataclasses.asdict(event)
            else:
                yield "questions", event.done, event.total
        return result

    made_from = {
        "version": VERSION,
        "model": subject.fingerprint,
        "questions": one.made_from,
        **{name: getattr(config, name) for name in ("num_neighbours", "question_limit", "seed")},
    }
    return _Part(one.name, "questions", 2.0 * len(some) * _TOKENS_A_PROMPT, made_from, compute)


def _swap_part(subject: Subject, swap: Swap, config: EvaluationConfig) -> _Part:
    prompts = read_prompts(swap.file)
    if config.question_limit and config.question_limit < len(prompts):
        rows = np.random.default_rng(config.seed).choice(len(prompts), config.question_limit, replace=False)
        prompts = [prompts[row] for row in sorted(rows.tolist())]

    def compute() -> Work:
        result: dict[str, Any] = {}
        for event in fact_swap(
            subject.model,
            subject.tokenizer,
            prompts,
            swap.retrievers,
            num_neighbours=config.num_neighbours,
        ):
            if isinstance(event, SwapResult):
                result = dataclasses.asdict(event)
            else:
                yield "prompts", event.done, event.total
        return result

    made_from = {
        "version": VERSION,
        "model": subject.fingerprint,
        "swap": swap.made_from,
        **{name: getattr(config, name) for name in ("num_neighbours", "question_limit", "seed")},
    }
    return _Part("", "swap", 3.0 * len(prompts) * _TOKENS_A_PROMPT, made_from, compute)


def _file_of(folder: Path, of: str, part: str) -> Path:
    """A probe may have any name; its files have one that any system takes."""
    safe = paths.slug(of) if of else "all"
    if of and safe != of:
        safe += f"-{hashlib.sha256(of.encode()).hexdigest()[:8]}"
    return folder / PARTS_DIR / f"{safe}.{part}.json"


def _kept(folder: Path | None, part: _Part) -> dict[str, Any] | None:
    """What is in a part's file, if it was made from the same."""
    if folder is None:
        return None
    file = _file_of(folder, part.of, part.name)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        same = found["made_from"] == json.loads(json.dumps(part.made_from)) and "result" in found
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if part.name == "readings" and not _file_of(folder, part.of, "losses").with_suffix(".npz").is_file():
        return None
    return found if same else None


def _save_losses(path: Path, losses: TokenLosses) -> None:
    file = io.BytesIO()
    arrays = {f"nats.{name}": nats for name, nats in losses.nats.items()}
    facts = json.dumps({"name": losses.name, "titles": losses.titles, "chunk_size": losses.chunk_size})
    np.savez(
        file, allow_pickle=False, facts=np.array(facts), document=losses.document, position=losses.position,
        num_bytes=losses.num_bytes, **arrays,
    )  # fmt: skip
    write_bytes(path, file.getvalue())


def _load_losses(path: Path) -> TokenLosses:
    with np.load(path, allow_pickle=False) as arrays:
        facts = json.loads(str(arrays["facts"]))
        return TokenLosses(
            name=facts["name"],
            titles=tuple(facts["titles"]),
            chunk_size=facts["chunk_size"],
            document=arrays["document"],
            position=arrays["position"],
            num_bytes=arrays["num_bytes"],
            nats={name[5:]: arrays[name] for name in arrays.files if name.startswith("nats.")},
        )


def as_json(value: Any) -> Any:
    """Dataclasses, numpy's numbers and tuples as JSON values; what is no finite number is null, since JSON
    has no other word for it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
