"""Answers are judged as SQuAD judges them, with what was read and without."""

import json

import pytest
from copying_model import CopyingModel
from tiny_models import tiny_model

from indexing.errors import InputError
from indexing.retrievers import Fixed
from retro_core.evaluation.questions import (
    Answered,
    Question,
    QuestionResult,
    answer_questions,
    exact_match,
    f1,
    normal,
    prompt_of,
    read_questions,
    recalled,
    with_wrong_answers,
)

M = 48
QUESTIONS = [
    Question("1", "Where is Mount Etna?", ["Sicily", "on Sicily"], ["Kraków", "1648"]),
    Question("2", "When was the treaty signed?", ["in 1648"], ["Sicily"]),
    Question("3", "Who dances on the comb?", ["honey bees"], ["eleven countries"]),
]
SAID = ["Mount Etna?\nanswer: Sicily.\n", "signed?\nanswer: 1648, in two cities\n", "Nobody said a thing"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Beatles!", "beatles"),
        ("an A.B.C. of the U.S.A.", "abc of usa"),  # punctuation leaves no blank
        ("the-end of a-theme", "theend of atheme"),  # so it goes before the articles
        ("Theatre, another", "theatre another"),  # articles are whole words
        ("L’été – “São Paulo”", "l’été – “são paulo”"),  # only ASCII's punctuation
        ("İstanbul", "i̇stanbul"),  # two characters in small letters, as Python has it
        ("\t31,518,954 \n people", "31518954 people"),
        ("A.", ""),
    ],
)
def test_words_are_made_alike(text, expected):
    assert normal(text) == expected


def test_exact_match_and_f1_by_hand():
    assert exact_match("The Nile.", ["Amazon", "nile"])
    assert not exact_match("Nile river", ["Nile"])
    assert f1("the Nile river", ["Nile"]) == pytest.approx(2 / 3)
    assert f1("x x y", ["x x x z"]) == pytest.approx(2 * 2 / 7)  # each word as often as both have it
    assert f1("x y z w", ["a b", "x y"]) == pytest.approx(2 * 2 / 6)  # the best over the answers
    assert f1("nothing", ["else"]) == 0
    assert f1("", ["the"]) == 1 and f1("", ["Nile"]) == 0  # as SQuAD 2.0: nothing equals nothing
    assert recalled(["It is on the Nile's banks", "x"], ["Niles banks"])
    assert not recalled(["Annihilation"], ["nihil"]) and not recalled(["x"], ["the"])


class OneByOne:
    """Finds, for a chunk that holds a question, the text that belongs to it."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def retrieve(self, chunks, num_neighbours):
        asked = {
            tuple(chunk): [text]
            for chunk in chunks.tolist()
            for question, text in zip(QUESTIONS, SAID, strict=True)
            if question.question in self.tokenizer.decode(chunk)
        }
        return Fixed(M, self.tokenizer, of_chunks=asked).retrieve(chunks, num_neighbours)


def test_a_copying_model_answers_with_neighbours_only(tokenizer):
    model = CopyingModel(tokenizer, M)
    events = list(answer_questions(model, tokenizer, QUESTIONS, OneByOne(tokenizer), num_neighbours=2))
    *answered, result = events
    assert [event.done for event in answered] == [1, 2, 3, 4, 5, 6] and answered[0].total == 6
    assert [event.text for event in answered] == ["Sicily.", "1648, in two cities", "", "", "", ""]
    on, off = result.readings
    assert (on.reading, off.reading) == ("on", "off")
    assert on.exact_match.value == pytest.approx(1 / 3) and off.exact_match.value == 0
    # 1 for Sicily; "1648 in two cities" against "in 1648": 2 words of 4 and 2
    assert on.f1.value == pytest.approx((1 + 2 * 2 / 6 + 0) / 3)
    assert on.recalled.value == pytest.approx(1 / 3)  # "in 1648" does not stand there, nor do bees
    assert on.exact_match_recalled.value == 1 and off.recalled is None
    assert result.on_minus_off["exact_match"].value == pytest.approx(1 / 3)
    assert (
        result.on_minus_off["f1"].ci95[0]
        <= result.on_minus_off["f1"].value
        <= result.on_minus_off["f1"].ci95[1]
    )
    assert answered[0].chosen is True and answered[0].nats < answered[3].nats
    assert [example.texts["on"] for example in result.examples] == [event.text for event in answered[:3]]


def test_without_a_retriever_only_off_is_asked(tokenizer):
    model = tiny_model(num_embeddings=tokenizer.vocab_size)
    questions = with_wrong_answers([Question(q.id, q.question, q.answers) for q in QUESTIONS])
    *answered, result = answer_questions(model, tokenizer, questions, None, max_new_tokens=4)
    assert isinstance(result, QuestionResult) and result.on_minus_off is None and result.count == 3
    assert all(
        isinstance(one, Answered) and one.reading == "off" and one.recalled is None for one in answered
    )
    assert result.readings[0].chosen is not None


def test_the_question_ends_a_chunk(tokenizer):
    """The paper's layout: what is looked up first ends with "answer:"."""
    asked = []

    class Noting(OneByOne):
        def retrieve(self, chunks, num_neighbours):
            asked.extend(self.tokenizer.decode(chunk) for chunk in chunks)
            return super().retrieve(chunks, num_neighbours)

    list(answer_questions(CopyingModel(tokenizer, M), tokenizer, QUESTIONS, Noting(tokenizer)))
    assert asked == [prompt_of(question.question) for question in QUESTIONS]


def test_wrong_answers_are_of_other_questions():
    questions = [Question(str(i), "?", [f"answer {i % 3}", "The answer 5"]) for i in range(7)]
    found = with_wrong_answers([*questions, Question("own", "?", ["x"], ["y"])], 2, seed=3)
    for question in found[:-1]:
        assert len(question.wrong) == len(set(question.wrong)) == 2
        assert not {normal(text) for text in question.wrong} & {normal(text) for text in question.answers}
    assert found[-1].wrong == ["y"]
    assert found == with_wrong_answers([*questions, Question("own", "?", ["x"], ["y"])], 2, seed=3)


def test_files_of_questions(tmp_path):
    file = tmp_path / "set.jsonl"
    rows = [{"id": i, "question": f"Which {i}?", "answers": [f"{i}"], "property": "x"} for i in range(11)]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert read_questions(file)[3] == Question("3", "Which 3?", ("3",))
    drawn = read_questions(file, 5, seed=1)
    assert len(drawn) == 5 and drawn == read_questions(file, 5, seed=1) != read_questions(file, 5, seed=2)
    assert [int(question.id) for question in drawn] == sorted(int(question.id) for question in drawn)
    for row, sentence in (
        ({"question": "?", "answers": []}, r"line 1: expected the answers to be a list .*got \[\]"),
        ({"question": "?", "answers": "x"}, "got 'x'"),
        ({"answers": ["x"]}, "line 1: expected a text 'question', got None"),
    ):
        file.write_text(json.dumps(row))
        with pytest.raises(InputError, match=sentence):
            read_questions(file)
    with pytest.raises(InputError, match="no questions to answer"):
        next(answer_questions(None, None, [], None))
