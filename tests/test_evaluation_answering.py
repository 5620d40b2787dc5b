"""Prompts by the batch give what one prompt at a time gives."""

import json

import numpy as np
import pytest
import torch
from test_generation import K, Library
from tiny_models import M, tiny_model

from indexing.errors import InputError
from retro_core.config import GenerationConfig
from retro_core.evaluation.answering import (
    answer_nats,
    padded,
    read_lines,
    read_with,
    scoring,
    written,
)
from retro_core.generation import Token, generate

NEW = 3 * M + 2  # so that chunks are completed, and looked up, while writing
PROMPTS = ["The river Nile", "Mount Etna,", "A chunk is a run", "Honey", "Kraków: ", "The treaty was"]


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(num_embeddings=tokenizer.vocab_size)


@pytest.fixture
def prompts(tokenizer):
    return [padded(tokenizer.encode(text), M, tokenizer.pad_id) for text in PROMPTS]


def test_padding_stands_on_the_left_and_fills_the_last_chunk(tokenizer):
    for text in PROMPTS:
        ids = tokenizer.encode(text)
        filled = padded(ids, M, tokenizer.pad_id)
        assert len(filled) % M == 0 and len(filled) - len(ids) < M
        assert filled[len(filled) - len(ids) :].tolist() == ids.tolist()
        assert (filled[: len(filled) - len(ids)] == tokenizer.pad_id).all()


@pytest.mark.parametrize("reads", [True, False])
def test_many_prompts_are_continued_as_each_alone(model, tokenizer, prompts, reads):
    library = Library(tokenizer.vocab_size) if reads else None
    found = list(read_with(library, prompts, K, M)) if reads else [None] * len(prompts)
    together = written(model, tokenizer, prompts, found, library, NEW)
    config = GenerationConfig(max_new_tokens=NEW, temperature=0.0, num_neighbours=K, stop=["\n"])
    for ids, line in zip(prompts, together, strict=True):
        events = generate(model, tokenizer, ids, library, config)
        alone = "".join(event.text for event in events if isinstance(event, Token))
        assert line == alone.partition("\n")[0]
    assert len(set(together)) > 1 and any(together)


def test_nats_of_an_answer_are_those_of_its_tokens(model, tokenizer):
    """Against one text at a time and a plain log-softmax; answers of several lengths."""
    library = Library(tokenizer.vocab_size)
    answers = [" four", " Sicily, on the coast", " x"]
    texts = [scoring(tokenizer, prompt, " total:", answer, M) for prompt in PROMPTS for answer in answers]
    prompts = [padded(tokenizer.encode(prompt), M, tokenizer.pad_id) for prompt in PROMPTS for _ in answers]
    found = list(read_with(library, prompts, K, M))
    for retriever, known in ((library, found), (None, [None] * len(texts))):
        nats = answer_nats(model, texts, known, retriever)
        for number, text in enumerate(texts):
            ids = text.ids.tolist()
            read = None
            if retriever is not None:
                chunks = np.array([ids[u * M : (u + 1) * M] for u in range(len(ids) // M)])
                read = torch.tensor(retriever.retrieve(chunks, K).tokens)[None]
            with torch.no_grad():
                log_probs = model(torch.tensor([ids]), read).logits[0].log_softmax(-1)
            expected = -sum(float(log_probs[t - 1, ids[t]]) for t in range(text.first, len(ids)))
            assert nats[number] == pytest.approx(expected, rel=1e-9)


def test_only_the_answer_is_scored(tokenizer):
    text = scoring(tokenizer, "Population:", " total:", " 23", M)
    assert tokenizer.decode(text.ids[text.first :]) == " 23"
    assert tokenizer.decode(text.ids) == "Population: total: 23"
    assert (
        len(text.ids) - len(tokenizer.encode("Population: total: 23"))
        == -len(tokenizer.encode("Population:")) % M
    )


def test_bad_lines_are_told(tmp_path):
    file = tmp_path / "questions.jsonl"
    for content, sentence in (
        ('{"id": 1}\n{"id"', "questions.jsonl, line 2 is not JSON"),
        ("[1]\n", r"line 1: expected an object like \{...\}, got '\[1\]'"),
        ("\n\n", "holds no questions"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=sentence):
            list(read_lines(file, "questions"))
    with pytest.raises(InputError, match="Cannot read the questions"):
        list(read_lines(tmp_path / "missing.jsonl", "questions"))
    file.write_text(json.dumps({"id": "x"}) + "\n\n")
    assert [row for _, row in read_lines(file, "questions")] == [{"id": "x"}]
