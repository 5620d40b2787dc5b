"""Training reads every chunk with its own neighbours, in an order that depends on seed and step alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from fakes import HashingEmbedder
from tiny_models import tiny_config

from indexing.build import build
from indexing.corpus import Document
from indexing.errors import InputError
from indexing.precompute import precompute_neighbours
from retro_core.dataset import RetroDataset, TrainingBatches

M, K, R = 8, 2, 16
MAX_LEN = 3 * M
MODEL = tiny_config(chunk_size=M, num_embeddings=401)


def documents(edition: str, lengths: tuple[int, ...]) -> list[Document]:
    """One document per length, in sentences; the last word differs between editions."""
    texts = [
        " ".join(SENTENCES[(d + i) % 5] for i in range(length)) + f" {edition}"
        for d, length in enumerate(lengths)
    ]
    return [Document(str(d), f"{edition} {d}", text, "test") for d, text in enumerate(texts)]


@pytest.fixture(scope="module")
def spec(tmp_path_factory, tokenizer) -> Path:
    """Two shards that ask, and as index these and a third, whose documents are one to many chunks long."""
    folder = tmp_path_factory.mktemp("dataset")
    shards = []
    for edition, lengths in (("old", (1, 2, 3)), ("new", (4, 1)), ("other", (2, 5))):
        shards.append(folder / edition)
        list(build(shards[-1], documents(edition, lengths), tokenizer, HashingEmbedder(), chunk_size=M))
    list(precompute_neighbours(shards[:2], shards, K, folder / "data"))
    return folder / "data" / "data.spec.json"


@pytest.fixture
def data(spec) -> RetroDataset:
    return RetroDataset(spec, MODEL, K, MAX_LEN)


def equal(one, other) -> bool:
    pairs = list(zip(vars(one).values(), vars(other).values(), strict=True))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_windows_are_every_chunk_once_and_of_one_document(data):
    seen = [(w.shard, row) for w in data.windows for row in range(w.start, w.stop)]
    assert seen == [(s, row) for s, store in enumerate(data.shards) for row in range(len(store))]
    owners = data.documents()
    for window in data.windows:
        store = data.shards[window.shard]
        assert 1 <= window.stop - window.start <= MAX_LEN // M
        assert len(set(store.chunk2seq[window.start : window.stop].tolist())) == 1
        first = sum(map(len, data.shards[: window.shard]))
        assert set(owners[first + window.start : first + window.stop].tolist()) == {window.document}
    assert sorted({w.document for w in data.windows}) == [0, 1, 2, 3, 4]


def test_neighbours_come_from_the_right_shard_and_never_cross_documents(data):
    lengths = [len(store) for store in data.index_shards]
    found = data.retrieved_tokens(np.arange(sum(lengths)).reshape(-1, 1))
    assert found.shape == (sum(lengths), 1, R)
    row = 0
    for store in data.index_shards:
        for chunk in range(len(store)):
            follows = chunk + 1 < len(store) and store.chunk2seq[chunk + 1] == store.chunk2seq[chunk]
            after = store.tokens[chunk + 1] if follows else np.zeros(M)
            assert found[row, 0].tolist() == [*store.tokens[chunk].tolist(), *after.astype(int).tolist()]
            row += 1
    assert not data.retrieved_tokens(np.array([[-1, -1]])).any()


def test_a_batch_is_text_labels_and_neighbours(data):
    longest = max(data.windows, key=lambda w: w.stop - w.start)
    last = data.windows[-1]  # ends in padding
    batch = data.collate([longest, last])
    n = MAX_LEN
    assert batch.input_ids.shape == batch.labels.shape == (2, n)
    assert batch.neighbour_ids.shape == (2, n // M, K, R)
    for row, window in enumerate((longest, last)):
        text = data.shards[window.shard].tokens[window.start : window.stop].reshape(-1).astype(int).tolist()
        text += [0] * (n - len(text))
        assert batch.input_ids[row].tolist() == text
        expected = [after if t and after else -100 for t, after in zip(text, [*text[1:], 0], strict=True)]
        assert batch.labels[row].tolist() == expected
        for u in range(window.stop - window.start):
            ids = np.load(data.neighbours[window.shard].filename)[window.start + u, :K]
            assert batch.neighbour_ids[row, u].tolist() == data.retrieved_tokens(ids).tolist()
        assert not batch.neighbour_ids[row, window.stop - window.start :].any()
    assert (batch.labels[1] == -100).sum() > 1 and (batch.labels[1] == 1).sum() == 1, (
        "one end mark to predict"
    )


def test_a_batch_depends_on_seed_and_step_alone(data):
    forward, jumping = TrainingBatches(data, 2, seed=5), TrainingBatches(data, 2, seed=5)
    steps = list(range(2 * len(forward) + 1))  # over two borders of epochs
    in_order = [forward.batch(step, 0.5, 0.3, 0.4) for step in steps]
    assert {batch.ignoring for batch in in_order} == {False, True}
    for step in (steps[-1], 0, len(forward), len(forward) - 1, 3):
        assert equal(jumping.batch(step, 0.5, 0.3, 0.4), in_order[step])
    fresh = TrainingBatches(RetroDataset(data_spec(data), MODEL, K, MAX_LEN), 2, seed=5)
    assert equal(fresh.batch(steps[-1], 0.5, 0.3, 0.4), in_order[-1])
    other = TrainingBatches(data, 2, seed=6)
    assert not all(equal(other.batch(step, 0.5, 0.3, 0.4), in_order[step]) for step in steps)


def data_spec(data: RetroDataset) -> Path:
    return Path(data.neighbours[0].filename).parent / "data.spec.json"


def test_an_epoch_is_every_window_that_can_read(data):
    batches = TrainingBatches(data, 2, seed=0)
    starts = sorted(tuple(data.tokens(w)) for w in data.windows if w.stop - w.start > 1)
    for epoch in (0, 1):
        seen = []
        for step in range(epoch * len(batches), (epoch + 1) * len(batches)):
            batch = batches.batch(step)
            assert len({int(row.nonzero().max()) // M for row in batch.input_ids}) == 1, "of one length"
            seen += [tuple(row.tolist()) for row in batch.input_ids]
        assert sorted(seen) == starts


def test_copies_are_the_text_itself_moved(data):
    batches = TrainingBatches(data, 2, seed=1)
    plain, copied = batches.batch(0), batches.batch(0, copies=1.0)
    assert torch.equal(plain.input_ids, copied.input_ids)
    changed = (plain.neighbour_ids != copied.neighbour_ids).any(dim=-1)  # (b, l, k)
    assert (changed.sum(dim=-1) <= 1).all() and changed.any(), "one neighbour of a chunk at most"
    reads = 0
    for b, u, j in changed.nonzero().tolist():
        text = copied.input_ids[b].tolist()
        piece = copied.neighbour_ids[b, u, j].tolist()
        starts = [s for s in range(len(text)) if (text[s : s + R] + [0] * R)[:R] == piece]
        assert any(u * M - M // 2 <= s < (u + 1) * M for s in starts)
        coming = text[(u + 1) * M : (u + 1) * M + M // 2]
        reads += any(coming and piece[i : i + len(coming)] == coming for i in range(R))
    assert reads > changed.sum() / 2, "most hold what is to be predicted"


def test_strangers_replace_all_neighbours_of_a_chunk(data):
    batches = TrainingBatches(data, 2, seed=1)
    strange = batches.batch(0, copies=1.0, strangers=1.0)
    known = {
        tuple(row) for row in data.retrieved_tokens(np.arange(data.index_starts[-1])[:, None])[:, 0].tolist()
    }
    found = {tuple(n) for n in strange.neighbour_ids.flatten(0, 2).tolist()}
    assert found <= known and len(found) > 3, "real chunks, no copies among them"
    assert not torch.equal(strange.neighbour_ids, batches.batch(0).neighbour_ids)


def broken(spec: Path, tmp_path: Path, change) -> Path:
    """A copy of the training set next to the shards, with `change` made to its files."""
    folder = spec.parent.parent / tmp_path.name
    folder.mkdir()
    for file in spec.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    return folder / "data.spec.json"


def edit(**changes):
    def change(folder: Path) -> None:
        value = json.loads((folder / "data.spec.json").read_text())
        (folder / "data.spec.json").write_text(json.dumps({**value, **changes}))

    return change


@pytest.mark.parametrize("change, sentence", [
    (lambda folder: (folder / "data.spec.json").unlink(), "Cannot read the spec"),
    (lambda folder: (folder / "data.spec.json").write_text("{"), "Cannot read the spec"),
    (lambda folder: (folder / "data.spec.json").write_text("[]"), "names no index_spec. It belongs under"),
    (lambda folder: (folder / "index.spec.json").write_text("[{}]"), "index.spec.json to list shards, each"),
    (edit(shards=[]), "data.spec.json to list shards, each with chunks, chunk2seq, seq2chunk, neighbours"),
    (edit(neighbours={}), "names no index_spec"),
    (lambda folder: (folder / "00-old.neighbours.npy").write_bytes(b"\x80"), "Cannot read the array"),
    (lambda folder: np.save(folder / "00-old.neighbours.npy", np.zeros(3, int)), "to have 2 axes, got 1"),
    (lambda folder: np.save(folder / "00-old.neighbours.npy", np.zeros((1, 2), int)), "2), got (1, 2)"),
    (lambda folder: np.save(folder / "01-new.neighbours.npy",
                            np.load(folder / "01-new.neighbours.npy") + 1000), "but the index of"),
])  # fmt: skip
def test_a_broken_training_set_is_told(spec, tmp_path, change, sentence):
    with pytest.raises(InputError) as caught:
        RetroDataset(broken(spec, tmp_path, change), MODEL, K, MAX_LEN)
    assert sentence in str(caught.value)


def test_settings_that_do_not_fit_the_training_set_are_told(spec, tmp_path, tokenizer, embedder):
    with pytest.raises(InputError, match="multiple of the chunk size 8 and hold two chunks, got 20. Use 16."):
        RetroDataset(spec, MODEL, K, 20)
    with pytest.raises(InputError, match="got 8. Use 16."):
        RetroDataset(spec, MODEL, K, 8)
    with pytest.raises(InputError, match="chunk_size is 9, but .*data.spec.json has chunks of 8 tokens"):
        RetroDataset(spec, tiny_config(chunk_size=9), K, 18)
    with pytest.raises(InputError, match="hold token .*, but the model knows 7. Name the tokenizer"):
        RetroDataset(spec, tiny_config(chunk_size=M, num_embeddings=7), K, MAX_LEN)
    with pytest.raises(InputError, match="at least 3"):
        RetroDataset(spec, MODEL, 3, MAX_LEN)
    with pytest.raises(InputError, match="at least 1 neighbour, got -1"):
        RetroDataset(spec, MODEL, -1, MAX_LEN)
    list(build(tmp_path / "short", [Document("a", "a", "a b", "test")], tokenizer, embedder, chunk_size=M))
    list(precompute_neighbours([tmp_path / "short"], [tmp_path / "short"], K, tmp_path / "data"))
    with pytest.raises(InputError, match="more than one chunk of 8 tokens.*Train on longer documents"):
        TrainingBatches(RetroDataset(tmp_path / "data" / "data.spec.json", MODEL, K, MAX_LEN), 2, seed=0)
