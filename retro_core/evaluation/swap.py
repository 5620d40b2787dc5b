"""The fact swap: the same prompts with another datastore, and whether the facts change with it.

A prompt has one answer for each of two datastores or more, as of two editions of an encyclopaedia. The model
goes on from it, greedy, once with each datastore and once with none (Retro[Off]), and says the value of the
datastore whose answer stands first in what it wrote; the rule is `first_of`. The swap works for a prompt if
it says with each datastore that one's own value.

What a model cannot read it cannot say: "reachable" is the share of prompts whose answer stands in one of
the neighbours that were read. And because a value of eight digits is wrong with one wrong digit, there is a
second measure: how likely each answer is, each after the words that its own edition puts before it.

Countries are drawn for the intervals, not prompts: what a model knows of a country it may know in all fields.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexing.errors import InputError
from indexing.neighbours import Neighbours, Retriever
from indexing.tokenizer import Tokenizer
from retro_core.evaluation.answering import (
    answer_nats,
    padded,
    read_lines,
    read_with,
    scoring,
    text_of,
    texts_in,
    texts_of,
    written,
)
from retro_core.evaluation.statistics import Estimate, ratio_of_sums
from retro_core.model import Retro

OFF = "off"  # the reading without a datastore
MAX_NEW_TOKENS = 24
EXAMPLES = 12
_AT_ONCE = 32  # prompts between two events


@dataclass(frozen=True)
class SwapPrompt:
    """answers: name of a datastore -> what counts as its answer · continuations: name -> how the datastore's
    own text goes on from the prompt, to the end of the answer"""

    id: str
    country: str
    field: str
    prompt: str
    answers: Mapping[str, Sequence[str]]
    continuations: Mapping[str, str]


@dataclass(frozen=True)
class Said:
    """What one prompt gave with one datastore. reading: its name, or OFF · said: the name of the datastore
    whose answer was given, None for neither · reachable: names whose answers stand in the neighbours that
    were read · nats: minus the log probability of each name's answer"""

    done: int
    total: int
    prompt: SwapPrompt
    reading: str
    text: str
    said: str | None
    reachable: tuple[str, ...]
    nats: Mapping[str, float]


@dataclass(frozen=True)
class SwapReading:
    """Shares of the prompts, with intervals by country. reading is a datastore's name, or OFF.

    own        said the answer of the datastore that was read; None for OFF
    other      said another one's; for OFF, anyone's
    neither    said none
    says       name -> said its answer
    reachable  the own answer stood in the neighbours; None for OFF
    likeliest  name -> its answer is the likeliest of all
    nats       name -> mean nats of its answer
    """

    reading: str
    own: Estimate | None
    other: Estimate
    neither: Estimate
    says: Mapping[str, Estimate]
    reachable: Estimate | None
    likeliest: Mapping[str, Estimate]
    nats: Mapping[str, Estimate]


@dataclass(frozen=True)
class SwapField:
    """One field, "Population": how many prompts, and the share for which the swap works."""

    field: str
    count: int
    swaps: float


@dataclass(frozen=True)
class SwapExample:
    """texts, said: by reading"""

    id: str
    prompt: str
    answers: Mapping[str, Sequence[str]]
    texts: Mapping[str, str]
    said: Mapping[str, str | None]


@dataclass(frozen=True)
class SwapResult:
    """swaps: with every datastore its own value · swaps_reachable: the same among the prompts all of whose
    answers could be read · prefers: with every datastore its own value is the likeliest"""

    count: int
    countries: int
    num_neighbours: int
    max_new_tokens: int
    swaps: Estimate
    swaps_reachable: Estimate | None
    prefers: Estimate
    readings: list[SwapReading]
    fields: list[SwapField]
    examples: list[SwapExample]


def read_prompts(path: Path) -> list[SwapPrompt]:
    """A JSON-lines file, each line {"id", "country", "field", "prompt", "answers": {NAME: [TEXT, ...], ...}}
    and, where other words come before the answer, "continuations": {NAME: TEXT up to the answer's end}.

    Raises InputError for what cannot be judged: fewer than two names or not the same in all lines, no
    answers, an answer that is taken for another name's, a prompt that gives its answer away.
    """
    found: list[SwapPrompt] = []
    for where, row in read_lines(path, "prompts"):
        prompt, answers = text_of(row, "prompt", where), row.get("answers")
        if not isinstance(answers, dict) or len(answers) < 2:
            raise InputError(f"{where}: expected answers of two datastores or more, got {answers!r}.")
        answers = {
            name: texts_in(texts, f"the answers of {name!r}", where) for name, texts in answers.items()
        }
        if found and answers.keys() != found[0].answers.keys():
            raise InputError(
                f"{where}: the answers are of {', '.join(answers)}, those before of "
                f"{', '.join(found[0].answers)}. Ask all prompts about the same datastores."
            )
        for name, texts in answers.items():
            for text in texts:
                if first_of(text, answers) != name or sum(text in others for others in answers.values()) > 1:
                    raise InputError(f"{where}: the answer {text!r} of {name!r} is taken for another one's.")
        if first_of(prompt, answers):
            raise InputError(f"{where}: the prompt {prompt!r} holds an answer.")
        continuations = row.get("continuations") or {name: f" {texts[0]}" for name, texts in answers.items()}
        for name, texts in answers.items():
            text = continuations.get(name) if isinstance(continuations, dict) else None
            if not isinstance(text, str) or not text.endswith(tuple(texts)):
                raise InputError(f"{where}: expected a continuation of {name!r} that ends with its answer.")
        found.append(
            SwapPrompt(
                text_of(row, "id", where),
                str(row.get("country") or row["id"]),
                str(row.get("field") or ""),
                prompt,
                answers,
                continuations,
            )
        )
    return found


def fact_swap(
    model: Retro,
    tokenizer: Tokenizer,
    prompts: Sequence[SwapPrompt],
    retrievers: Mapping[str, Retriever],
    *,
    num_neighbours: int = 2,
    max_new_tokens: int = MAX_NEW_TOKENS,
    examples: int = EXAMPLES,
) -> Iterator[Said | SwapResult]:
    """Every prompt with every datastore and with none; the result comes last.

    retrievers  one for each name that the prompts have answers of; what it finds is in tokens of the model

    Raises InputError if there are no prompts, or a name has no retriever.
    """
    if not prompts:
        raise InputError("There are no prompts to swap facts in. Give a file of one or more.")
    names = list(prompts[0].answers)
    missing = [name for name in names if name not in retrievers]
    if missing:
        raise InputError(
            f"The prompts have answers of {', '.join(names)}, but nothing looks into {', '.join(missing)}. "
            "Give a datastore for each, or write its name into the prompts."
        )
    m = model.config.chunk_size
    ids = [padded(tokenizer.encode(prompt.prompt), m, tokenizer.pad_id) for prompt in prompts]
    scorings = [
        [
            scoring(tokenizer, prompt.prompt, *_cut(prompt.continuations[name], prompt.answers[name]), m)
            for name in names
        ]
        for prompt in prompts
    ]
    readings: dict[str, list[Said]] = {}
    total = len(prompts) * (len(names) + 1)
    for reading in [*names, OFF]:
        retriever = retrievers.get(reading) if reading != OFF else None
        found: list[Neighbours | None] = [None] * len(prompts)
        if retriever is not None:
            found = list(read_with(retriever, ids, num_neighbours, m))
        readings[reading] = []
        for start in range(0, len(prompts), _AT_ONCE):
            rows = range(start, min(start + _AT_ONCE, len(prompts)))
            some = slice(rows.start, rows.stop)
            texts = written(model, tokenizer, ids[some], found[some], retriever, max_new_tokens)
            answers = [(one, found[row]) for row in rows for one in scorings[row]]
            nats = answer_nats(model, *zip(*answers, strict=True), retriever).reshape(len(rows), len(names))
            for row in rows:
                prompt, read, text = prompts[row], found[row], texts[row - start]
                readings[reading].append(
                    Said(
                        done=sum(map(len, readings.values())) + 1,
                        total=total,
                        prompt=prompt,
                        reading=reading,
                        text=text,
                        said=first_of(text, prompt.answers),
                        reachable=()
                        if read is None
                        else reachable(texts_of(read, tokenizer), prompt.answers),
                        nats=dict(zip(names, nats[row - start].tolist(), strict=True)),
                    )
                )
                yield readings[reading][-1]
    yield summed_up(readings, num_neighbours, max_new_tokens, examples)


def summed_up(
    readings: Mapping[str, Sequence[Said]], num_neighbours: int, max_new_tokens: int, examples: int = EXAMPLES
) -> SwapResult:
    """The numbers of `fact_swap`. readings: each datastore's name, and OFF -> the same prompts in order."""
    names = [name for name in readings if name != OFF]
    prompts = [said.prompt for said in readings[OFF]]
    countries = [prompt.country for prompt in prompts]
    said = {reading: np.array([one.said or "" for one in all_]) for reading, all_ in readings.items()}
    nats = {
        reading: np.array([[one.nats[name] for name in names] for one in all_]).reshape(-1, len(names))
        for reading, all_ in readings.items()
    }
    likeliest = {reading: np.array(names)[values.argmin(axis=1)] for reading, values in nats.items()}
    could = {name: np.array([name in one.reachable for one in readings[name]]) for name in names}
    swaps = np.all([said[name] == name for name in names], axis=0)
    prefers = np.all([likeliest[name] == name for name in names], axis=0)
    all_reachable = np.all(list(could.values()), axis=0)

    def of_reading(reading: str) -> SwapReading:
        words, off = said[reading], reading == OFF
        return SwapReading(
            reading=reading,
            own=None if off else share(words == reading, countries),
            other=share((words != "") & (words != reading), countries),
            neither=share(words == "", countries),
            says={name: share(words == name, countries) for name in names},
            reachable=None if off else share(could[reading], countries),
            likeliest={name: share(likeliest[reading] == name, countries) for name in names},
            nats={name: share(nats[reading][:, i], countries) for i, name in enumerate(names)},
        )

    fields = np.array([prompt.field for prompt in prompts])
    shown = _spread(len(prompts), examples)
    return SwapResult(
        count=len(prompts),
        countries=len(set(countries)),
        num_neighbours=num_neighbours,
        max_new_tokens=max_new_tokens,
        swaps=share(swaps, countries),
        swaps_reachable=share(swaps, countries, all_reachable) if all_reachable.any() else None,
        prefers=share(prefers, countries),
        readings=[of_reading(reading) for reading in readings],
        fields=[
            SwapField(field, int((fields == field).sum()), float(swaps[fields == field].mean()))
            for field in dict.fromkeys(fields.tolist())
        ],
        examples=[
            SwapExample(
                prompts[row].id,
                prompts[row].prompt,
                prompts[row].answers,
                {reading: all_[row].text for reading, all_ in readings.items()},
                {reading: all_[row].said for reading, all_ in readings.items()},
            )
            for row in shown
        ],
    )


def share(values: np.ndarray, countries: Sequence[str], among: np.ndarray | None = None) -> Estimate:
    """Mean of (n,) values, of those `among` (n,) bool if given, with the interval of drawing countries."""
    among = np.ones(len(values), dtype=bool) if among is None else among
    _, place = np.unique(np.array(countries)[among], return_inverse=True)
    return ratio_of_sums(np.bincount(place, np.asarray(values, float)[among]), np.bincount(place))


def first_of(text: str, answers: Mapping[str, Sequence[str]]) -> str | None:
    """The name of `answers` of which an answer stands first in `text`, of two that start together the longer;
    None if none stands there.

    An answer stands there whole: "18.4" is neither in "118.4" nor in "18.43" nor in "-18.4". Case, kinds of
    blanks and Unicode's compatible forms do not matter.
    """
    text = _normal(text)
    best: tuple[int, int, str] | None = None
    for name, accepted in answers.items():
        for answer in map(_normal, accepted):
            found = re.search(rf"(?<![\w.,$-]){re.escape(answer)}(?!\w|[.,]\d)", text)
            if found and (best is None or (found.start(), -len(answer)) < best[:2]):
                best = (found.start(), -len(answer), name)
    return best and best[2]


def reachable(texts: Sequence[str], answers: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names of which an answer stands in one of the texts."""
    return tuple(
        name for name, accepted in answers.items() if any(first_of(text, {name: accepted}) for text in texts)
    )


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _cut(continuation: str, answers: Sequence[str]) -> tuple[str, str]:
    """What stands before the answer, and the answer."""
    answer = max((answer for answer in answers if continuation.endswith(answer)), key=len)
    return continuation.removesuffix(answer), answer


def _spread(count: int, shown: int) -> list[int]:
    """Numbers of up to `shown` among `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(shown, count)).astype(int)).tolist()
