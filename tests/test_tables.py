"""A trace as tables: all its numbers, and nothing that a spreadsheet would compute."""

import csv
import io
import math

import pytest
from synthetic_trace import synthetic_file

from app import tables
from retro_core.trace import Trace


@pytest.fixture
def trace():
    return Trace.from_json(synthetic_file(num_chunks=2))


def read(rows):
    return list(csv.reader(io.StringIO(tables.to_csv(rows))))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")'])
def test_no_text_becomes_a_formula(text):
    assert read([[text, "a=1"]]) == [[f"'{text}", "a=1"]]


def test_numbers_stay_numbers():
    assert read([[-1.5, 3, None, 0.1234567891]]) == [["-1.5", "3", "", "0.123457"]]


def test_a_row_for_each_token_says_what_the_lens_says(trace):
    names, *rows = read(tables.tokens(trace))
    data = trace.data
    assert len(rows) == len(data["tokens"]) and {len(row) for row in rows} == {len(names)}
    chunk = data["chunks"][1]
    place = chunk["read"][0]
    row = dict(zip(names, rows[place], strict=True))
    token = data["tokens"][place]
    assert row["reads neighbours of chunk"] == "2"
    assert float(row["gain (nats)"]) == pytest.approx(token["lp_on"] - token["lp_off"], abs=1e-5)
    assert float(row["probability on"]) == pytest.approx(math.exp(token["lp_on"]), abs=1e-5)
    influence = chunk["neighbours"][1]["influence"]["tokens"][0]
    assert float(row["influence of #2 (nats)"]) == pytest.approx(influence, abs=1e-5)
    before = dict(zip(names, rows[data["chunks"][0]["read"][0] - 1], strict=True))
    assert before["reads neighbours of chunk"] == "" and before["influence of #1 (nats)"] == ""


def test_a_row_for_each_neighbour(trace):
    names, *rows = read(tables.neighbours(trace))
    cards = [(chunk, card) for chunk in trace.data["chunks"] for card in chunk["neighbours"]]
    assert len(rows) == len(cards)
    for row, (chunk, card) in zip(rows, cards, strict=True):
        row = dict(zip(names, row, strict=True))
        assert (row["chunk"], row["rank"]) == (str(chunk["index"] + 1), str(card["rank"]))
        assert float(row["attention share"]) == pytest.approx(card["share"], abs=1e-5)
        split = card["num_neighbour_tokens"]
        assert row["neighbour"].lstrip("'") == "".join(card["tokens"][:split])
