"""With another datastore come other facts: counted right, and only where they are said."""

import json

import numpy as np
import pytest
from copying_model import CopyingModel

from indexing.build import build
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import InputError
from retro_core.evaluation.swap import (
    OFF,
    Said,
    SwapPrompt,
    fact_swap,
    first_of,
    reachable,
    read_prompts,
    share,
    summed_up,
)

M = 53
VALUES = {  # country -> of each field, the value of each edition
    "Nile": {"Length": ("6,650 km", "6,695 km"), "Cities": ("11", "17")},
    "Etna": {"Height": ("3,329 m", "3,357 m")},
    "Kraków": {"Mayor": ("João MAJCHROWSKI", "Ana MISZALSKI"), "Rivers": ("2.5%", "12.5%")},
}
NAMES = ("old", "new")


def prompts() -> list[SwapPrompt]:
    return [
        SwapPrompt(
            f"{country}/{field}",
            country,
            field,
            f"{country} — Facts\n{field}:",
            {name: (value,) for name, value in zip(NAMES, values, strict=True)},
            {name: f" {value}" for name, value in zip(NAMES, values, strict=True)},
        )
        for country, fields in VALUES.items()
        for field, values in fields.items()
    ]


@pytest.fixture
def editions(tokenizer, embedder, tmp_path):
    """Two datastores; the new one lacks what is said of Etna."""
    found = {}
    for place, name in enumerate(NAMES):
        documents = [
            Document(
                f"{country}/{field}", country, f"{country} — Facts\n{field}: {values[place]} (est.)", name
            )
            for country, fields in VALUES.items()
            for field, values in fields.items()
            if (name, country) != ("new", "Etna")
        ]
        for _ in build(tmp_path / name, documents, tokenizer, embedder, chunk_size=M):
            pass
        found[name] = Datastore.open(tmp_path / name, embedder=embedder)
    return found


def test_a_copying_model_says_what_its_datastore_says(tokenizer, editions):
    model = CopyingModel(tokenizer, M)
    *said, result = fact_swap(model, tokenizer, prompts(), editions, num_neighbours=1)
    assert len(said) == 5 * 3 and said[-1].done == said[-1].total == 15
    for one in said:
        absent = one.reading == OFF or (one.reading, one.prompt.country) == ("new", "Etna")
        assert one.said == (None if absent else one.reading), one
        assert one.reachable == (() if absent else (one.reading,))
        if not absent:
            assert one.text.strip().startswith(one.prompt.answers[one.reading][0])
            assert min(one.nats, key=one.nats.get) == one.reading
    assert result.swaps.value == 4 / 5 and result.swaps_reachable.value == 1
    old, new, off = result.readings
    assert (old.own.value, new.own.value, off.own) == (1, 4 / 5, None)
    assert (old.reachable.value, new.reachable.value, off.reachable) == (1, 4 / 5, None)
    assert off.neither.value == 1 and off.other.value == 0
    assert {field.field: field.swaps for field in result.fields}["Height"] == 0
    assert result.examples[0].said == {"old": "old", "new": "new", OFF: None}
    assert result.countries == 3 and result.count == 5


def test_a_model_that_knows_one_edition_by_heart_swaps_nothing():
    """By hand, from what was said: the shares of every reading."""
    asked = prompts()
    knows = [one.country != "Kraków" for one in asked]

    def reading(name):
        return [
            Said(
                0,
                0,
                prompt,
                name,
                "",
                "old" if known else None,
                (),
                {"old": 1.0, "new": 2.0 - 3 * (not known)},
            )
            for prompt, known in zip(asked, knows, strict=True)
        ]

    result = summed_up({name: reading(name) for name in (*NAMES, OFF)}, 2, 24)
    old, new, off = result.readings
    assert result.swaps.value == 0 == result.prefers.value and result.swaps_reachable is None
    assert old.own.value == 3 / 5 and new.own.value == 0 and new.other.value == 3 / 5 == off.other.value
    assert off.says["old"].value == 3 / 5 and off.says["new"].value == 0 and off.neither.value == 2 / 5
    assert old.likeliest["old"].value == 3 / 5 and old.nats["new"].value == pytest.approx((3 * 2 - 2 * 1) / 5)
    # Three countries with 2, 1 and 2 prompts; Kraków drawn three times gives 0, never drawn gives 1.
    assert old.own.ci95 == (0, 1)


def test_countries_are_drawn_not_prompts():
    countries = ["a"] * 50 + ["b"] * 50
    all_or_nothing = share(np.array([1] * 50 + [0] * 50), countries)
    mixed = share(np.array([1, 0] * 50), countries)
    assert all_or_nothing.value == mixed.value == 0.5
    assert all_or_nothing.ci95 == (0, 1) and mixed.ci95 == (0.5, 0.5)
    assert share(np.array([1, 0, 1]), ["a", "b", "c"], np.array([True, True, False])).value == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" total: 18.4 years", "old"),
        (" 19.4 years; 18.4 before", "new"),
        ("118.4, 18.43, -18.4 or $18.4", None),
        ("18.4.", "old"),
        ("18.4, then", "old"),
        ("18.4,000", None),
        ("it is 18.4%", "old"),
        ("$31.67  BILLION", "old"),  # case and blanks
        ("$31.67 billions", None),
        ("Mary E. d’Éste (since", "new"),
        ("Mary E. D’ÉSTE-HO", "new"),
        ("roman catholic 80%", "new"),  # both start there: the longer one
        ("１９.4", "new"),  # full-width digits
        ("", None),
    ],
)
def test_whose_answer_stands_first(text, expected):
    answers = {
        "old": ["18.4", "$31.67 billion", "Roman"],
        "new": ["19.4", "d’Éste", "Roman Catholic 80%"],
    }
    assert first_of(text, answers) == expected


def test_what_can_be_read():
    answers = {"old": ["11"], "new": ["17", "x y"]}
    assert reachable(["111, 17.5", "it is X\nY there"], answers) == ("new",)
    assert reachable([], answers) == ()


GOOD = {"id": "a", "country": "c", "field": "f", "prompt": "P:", "answers": {"old": ["1.5"], "new": ["2"]}}


def test_files_of_prompts(tmp_path):
    file = tmp_path / "swap.jsonl"
    file.write_text(json.dumps(GOOD))
    assert read_prompts(file)[0].continuations == {"old": " 1.5", "new": " 2"}
    file.write_text(json.dumps({**GOOD, "continuations": {"old": " total: 1.5", "new": " 2"}}))
    assert read_prompts(file)[0].continuations["old"] == " total: 1.5"
    for change, sentence in (
        ({"answers": {"old": ["1"]}}, "expected answers of two datastores or more"),
        (
            {"answers": {"old": ["1"], "new": []}},
            "expected the answers of 'new' to be a list of one text or more",
        ),
        (
            {"answers": {"old": ["1"], "new": ["2", "1"]}},
            "the answer '1' of 'old' is taken for another one's",
        ),
        (
            {"answers": {"old": ["x 1"], "new": ["X  1"]}},
            "the answer 'X  1' of 'new' is taken for another one's",
        ),
        ({"prompt": "In 2:"}, "the prompt 'In 2:' holds an answer"),
        ({"prompt": ""}, "expected a text 'prompt', got ''"),
        ({"continuations": {"old": " 1.5"}}, "expected a continuation of 'new' that ends with its answer"),
    ):
        file.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, **change}))
        with pytest.raises(InputError, match=f"line 2: {sentence}"):
            read_prompts(file)
    other = {**GOOD, "answers": {"old": ["1.5"], "newer": ["2"]}}
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(other))
    with pytest.raises(InputError, match="line 2: the answers are of old, newer, those before of old, new"):
        read_prompts(file)


def test_a_datastore_that_is_not_there(tokenizer, editions):
    model = CopyingModel(tokenizer, M)
    with pytest.raises(InputError, match="answers of old, new, but nothing looks into new"):
        next(fact_swap(model, tokenizer, prompts(), {"old": editions["old"]}))
    with pytest.raises(InputError, match="no prompts to swap facts in"):
        next(fact_swap(model, tokenizer, [], editions))
