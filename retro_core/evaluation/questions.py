"""Question answering: exact match and F1 of what the model writes, with neighbours and without.

The prompt is "question: ... \\nanswer:", padded on the left so that "answer:" ends a chunk, the first one for
all but very long questions (Borgeaud et al. 2021, section 4.3, who read 20 passages there). So the whole
question is looked up, and the first word of the answer is written with what was found.

Words are compared as SQuAD's own script does (Rajpurkar et al. 2016): small letters, no ASCII punctuation, no
"a", "an", "the", single blanks. Exact match and F1 are the best over a question's answers.

Two more measures say what greedy writing hides. Prompt scoring: how likely the likeliest answer is, and
whether it is likelier than each of some wrong ones, which are answers to other questions. Recall: whether an
answer stands in a neighbour that was read at all.
"""

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from indexing.errors import InputError
from indexing.neighbours import Neighbours, Retriever
from indexing.tokenizer import Tokenizer
from retro_core.evaluation.answering import (
    Scoring,
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
from retro_core.evaluation.statistics import Estimate, bootstrap, ratio_of_sums
from retro_core.model import Retro

MAX_NEW_TOKENS = 24
WRONG_ANSWERS = 3
SCORED_ANSWERS = 4  # of each question; some sets list dozens of spellings
EXAMPLES = 12
_AT_ONCE = 32  # questions between two events

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Question:
    """answers: any of them is right · wrong: candidates that are not, for prompt scoring"""

    id: str
    question: str
    answers: Sequence[str]
    wrong: Sequence[str] = ()


@dataclass(frozen=True)
class Answered:
    """One question in one reading, "on" or "off".

    recalled  an answer stands in a neighbour that was read; None without neighbours
    nats      minus the log probability of the likeliest answer, among the first SCORED_ANSWERS
    chosen    it is likelier than all wrong answers; None if there are none of these
    """

    done: int
    total: int
    question: Question
    reading: str
    text: str
    exact_match: bool
    f1: float
    recalled: bool | None
    nats: float
    chosen: bool | None


@dataclass(frozen=True)
class QuestionReading:
    """Means over the questions, F1 and shares from 0 to 1, with intervals by question. exact_match_recalled:
    of the questions whose answer could be read; None if there are none."""

    reading: str
    exact_match: Estimate
    f1: Estimate
    nats: Estimate
    chosen: Estimate | None
    recalled: Estimate | None
    exact_match_recalled: Estimate | None


@dataclass(frozen=True)
class QuestionExample:
    """texts: by reading"""

    id: str
    question: str
    answers: Sequence[str]
    texts: dict[str, str]
    recalled: bool | None


@dataclass(frozen=True)
class QuestionResult:
    """on_minus_off: exact match, F1 and nats, drawn together; None without neighbours"""

    count: int
    num_neighbours: int
    max_new_tokens: int
    readings: list[QuestionReading]
    on_minus_off: dict[str, Estimate] | None
    examples: list[QuestionExample]


def read_questions(path: Path, count: int | None = None, seed: int = 0) -> list[Question]:
    """A JSON-lines file, each line {"id", "question", "answers": [TEXT, ...]} and, if there are some,
    "wrong": [TEXT, ...]. Other keys do not matter.

    count  so many drawn at random, in the file's order; None for all

    Raises InputError for lines that are not such.
    """
    questions = []
    for where, row in read_lines(path, "questions"):
        question = text_of(row, "question", where).strip()
        answers = texts_in(row.get("answers"), "the answers", where)
        wrong = texts_in(row["wrong"], "the wrong answers", where) if row.get("wrong") else ()
        questions.append(Question(str(row.get("id", len(questions) + 1)), question, answers, wrong))
    if count is not None and count < len(questions):
        rows = np.random.default_rng(seed).choice(len(questions), count, replace=False)
        questions = [questions[row] for row in sorted(rows.tolist())]
    return questions


def with_wrong_answers(
    questions: Sequence[Question], count: int = WRONG_ANSWERS, seed: int = 0
) -> list[Question]:
    """The same questions, those without wrong answers with `count` first answers of other questions, drawn at
    random, that are none of their own."""
    rng, found = np.random.default_rng(seed), []
    firsts = [question.answers[0] for question in questions]
    for question in questions:
        if question.wrong:
            found.append(question)
            continue
        wrong, taken = [], {normal(answer) for answer in question.answers}
        for row in rng.permutation(len(firsts)):
            if len(wrong) < count and normal(firsts[row]) not in taken:
                wrong.append(firsts[row])
                taken.add(normal(firsts[row]))
        found.append(replace(question, wrong=tuple(wrong)))
    return found


def prompt_of(question: str) -> str:
    return f"question: {question}\nanswer:"


def answer_questions(
    model: Retro,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    retriever: Retriever | None,
    *,
    num_neighbours: int = 2,
    max_new_tokens: int = MAX_NEW_TOKENS,
    examples: int = EXAMPLES,
) -> Iterator[Answered | QuestionResult]:
    """Every question with neighbours, if there is a retriever, and without; the result comes last.

    retriever  what it finds is in tokens of the model; None asks Retro[Off] alone

    Raises InputError if there are no questions.
    """
    if not questions:
        raise InputError("There are no questions to answer. Give a file of one or more.")
    m, pad = model.config.chunk_size, tokenizer.pad_id
    ids = [padded(tokenizer.encode(prompt_of(question.question)), m, pad) for question in questions]
    readings: dict[str, list[Answered]] = {}
    kinds: list[tuple[str, Retriever | None]] = [("off", None)]
    if retriever is not None:
        kinds.insert(0, ("on", retriever))
    done, total = 0, len(questions) * len(kinds)
    for reading, source in kinds:
        readings[reading] = []
        for start in range(0, len(questions), _AT_ONCE):
            some = questions[start : start + _AT_ONCE]
            asked = ids[start : start + _AT_ONCE]
            found: list[Neighbours | None] = [None] * len(some)
            if source is not None:
                found = list(read_with(source, asked, num_neighbours, m))
            texts = written(model, tokenizer, asked, found, source, max_new_tokens)
            nats = _candidate_nats(model, tokenizer, some, found, source)
            for question, text, read, (right, wrong) in zip(some, texts, found, nats, strict=True):
                done += 1
                readings[reading].append(
                    Answered(
                        done,
                        total,
                        question,
                        reading,
                        text.strip(),
                        exact_match(text, question.answers),
                        f1(text, question.answers),
                        None if read is None else recalled(texts_of(read, tokenizer), question.answers),
                        min(right),
                        min(right) < min(wrong) if wrong else None,
                    )
                )
                yield readings[reading][-1]
    yield summed_up(readings, num_neighbours, max_new_tokens, examples)


def _candidate_nats(
    model: Retro,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    found: Sequence[Neighbours | None],
    retriever: Retriever | None,
) -> list[tuple[list[float], list[float]]]:
    """Of each question: nats of its first answers, and of the wrong ones. The line's end is part of an
    answer, so that the beginning of a longer one gains nothing."""
    texts: list[Scoring] = []
    read: list[Neighbours | None] = []
    for question, neighbours in zip(questions, found, strict=True):
        for answer in (*question.answers[:SCORED_ANSWERS], *question.wrong):
            prompt = prompt_of(question.question)
            texts.append(scoring(tokenizer, prompt, " ", f"{answer}\n", model.config.chunk_size))
            read.append(neighbours)
    nats = answer_nats(model, texts, read, retriever).tolist()
    result = []
    for question in questions:
        right, wrong = len(question.answers[:SCORED_ANSWERS]), len(question.wrong)
        result.append((nats[:right], nats[right : right + wrong]))
        nats = nats[right + wrong :]
    return result


def summed_up(
    readings: dict[str, list[Answered]], num_neighbours: int, max_new_tokens: int, examples: int = EXAMPLES
) -> QuestionResult:
    """The numbers of `answer_questions`. readings: "on", "off" -> the same questions in the same order."""
    rows = {
        reading: np.array([[a.exact_match, a.f1, a.nats] for a in all_]) for reading, all_ in readings.items()
    }
    difference = None
    if {"on", "off"} <= readings.keys():
        means = [mean(rows["on"][:, i] - rows["off"][:, i]) for i in range(3)]
        difference = dict(zip(("exact_match", "f1", "nats"), means, strict=True))
    first = next(iter(readings.values()))
    shown = np.unique(np.linspace(0, len(first) - 1, min(examples, len(first))).astype(int)).tolist()
    return QuestionResult(
        len(first),
        num_neighbours,
        max_new_tokens,
        [_of_reading(reading, all_) for reading, all_ in readings.items()],
        difference,
        [
            QuestionExample(
                first[row].question.id,
                first[row].question.question,
                first[row].question.answers,
                {reading: all_[row].text for reading, all_ in readings.items()},
                first[row].recalled,
            )
            for row in shown
        ],
    )


def _of_reading(reading: str, answered: Sequence[Answered]) -> QuestionReading:
    exact = np.array([one.exact_match for one in answered], dtype=float)
    chosen = np.array([one.chosen for one in answered if one.chosen is not None], dtype=float)
    could = None
    if all(one.recalled is not None for one in answered):
        could = np.array([one.recalled for one in answered], dtype=float)
    return QuestionReading(
        reading=reading,
        exact_match=mean(exact),
        f1=mean(np.array([one.f1 for one in answered])),
        nats=mean(np.array([one.nats for one in answered])),
        chosen=mean(chosen) if len(chosen) else None,
        recalled=None if could is None else mean(could),
        exact_match_recalled=ratio_of_sums(exact * could, could)
        if could is not None and could.any()
        else None,
    )


def mean(values: np.ndarray) -> Estimate:
    """Of (n,) values, with the interval of drawing n of them."""
    return bootstrap(values[:, None], lambda totals: totals[..., 0] / len(values))


# ------------------------------------------------------------------------------- comparing words


def normal(text: str) -> str:
    """As SQuAD's script: first punctuation goes, without a blank in its place, then articles."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(text: str, answers: Sequence[str]) -> bool:
    return any(normal(text) == normal(answer) for answer in answers)


def f1(text: str, answers: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the words, the best over the answers."""
    return max(_f1(normal(text).split(), normal(answer).split()) for answer in answers)


def _f1(words: Sequence[str], right: Sequence[str]) -> float:
    if not words or not right:  # as SQuAD 2.0's script
        return float(words == right)
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right))


def recalled(texts: Sequence[str], answers: Sequence[str]) -> bool:
    """Does an answer stand in one of the texts, as a run of whole words?"""
    said = [f" {normal(text)} " for text in texts]
    wanted = [normal(answer) for answer in answers]
    return any(answer and f" {answer} " in text for answer in wanted for text in said)
