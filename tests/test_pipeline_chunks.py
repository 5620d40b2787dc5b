"""tokenize-and-chunk writes the reference's files byte for byte, in batches of any size, killed or not."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from conftest import SENTENCES

from indexing import files
from indexing.errors import CheckpointError, CorpusError, DatastoreError, InputError, MismatchError
from indexing.pipeline import chunk_files, unfinished
from indexing.pipeline.chunk_files import ChunkFiles, jsonl_texts, write_chunks
from indexing.pipeline.tokens import MarkedTokenizer, keep_tokenizer, open_tokenizer

EDGE = Path(__file__).parent / "data" / "pipeline" / "edge"
NAMES = ("chunks.npy", "seq2chunk.npy", "chunk2seq.npy")


@pytest.fixture(scope="module")
def minilm() -> MarkedTokenizer:
    return open_tokenizer("all-MiniLM-L6-v2")


def files_in(folder: Path) -> ChunkFiles:
    return ChunkFiles(*(folder / name for name in NAMES))


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in NAMES]


def edge_texts():
    with open(EDGE / "edge.jsonl", "rb") as lines:
        yield from jsonl_texts(lines, "edge.jsonl")


@pytest.mark.parametrize("characters, blocks", [(2_000_000, 4096), (1000, 3), (1, 1)])
def test_the_references_bytes_in_batches_of_any_size(minilm, tmp_path, monkeypatch, characters, blocks):
    monkeypatch.setattr(chunk_files, "_CHARACTERS_AT_ONCE", characters)
    monkeypatch.setattr(chunk_files, "_BLOCKS_AT_ONCE", blocks)
    events = list(write_chunks(edge_texts, minilm, files_in(tmp_path), 64))
    assert (events[-1].documents, events[-1].chunks) == (11, 14)
    assert contents(tmp_path) == contents(EDGE)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES), "and nothing else"


def test_a_document_in_pieces_is_the_document(minilm, tmp_path):
    """No piece of a huge document need know the others, and it may end in any batch."""
    text = " ".join(SENTENCES * 7)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    list(write_chunks(lambda: [[text], ["x"]], minilm, files_in(whole), 13))
    words = [" " + word for word in text.split(" ")]
    words[0] = words[0][1:]
    list(write_chunks(lambda: [iter(words), ["x"]], minilm, files_in(pieces), 13))
    assert contents(whole) == contents(pieces)
    chunks = np.load(whole / "chunks.npy")
    assert chunks[0, 0] == 101 and (chunks == 102).sum() == 2 and chunks.shape[1] == 13


class Counting(MarkedTokenizer):
    """Counts the texts it encodes, and can die at one."""

    encoded, dies_at = 0, -1

    def encode(self, texts):
        self.encoded += len(texts)
        if 0 <= self.dies_at < self.encoded:
            raise KeyboardInterrupt
        return super().encode(texts)


def counting(tokenizer) -> Counting:
    return Counting(tokenizers.Tokenizer.from_str(tokenizer.to_json()), "counting")


def test_killed_and_run_again_it_goes_on(minilm, tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_files, "_BLOCKS_AT_ONCE", 1)
    monkeypatch.setattr(unfinished, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)  # after every document
    texts = [[sentence * (i + 1)] for i, sentence in enumerate(SENTENCES * 4)]
    list(write_chunks(lambda: texts, minilm, files_in(tmp_path / "whole"), 11))

    dying = counting(minilm)
    for deaths in range(1, 5):
        dying.encoded, dying.dies_at = 0, 5
        with pytest.raises(KeyboardInterrupt):
            list(write_chunks(lambda: texts, dying, files_in(tmp_path / "often"), 11))
        assert not (tmp_path / "often" / "chunks.npy").exists(), deaths
    dying.encoded, dying.dies_at = 0, -1
    events = list(write_chunks(lambda: texts, dying, files_in(tmp_path / "often"), 11))
    assert events[0].note == "going on after document 20"
    assert dying.encoded == len(texts) - 20
    assert contents(tmp_path / "often") == contents(tmp_path / "whole")


def test_other_documents_or_settings_begin_anew(minilm, tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_files, "_BLOCKS_AT_ONCE", 1)
    monkeypatch.setattr(unfinished, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    texts = [[sentence] for sentence in SENTENCES]
    changed = [[SENTENCES[0] + "!"], *texts[1:]]

    def begin(folder):
        events = write_chunks(lambda: texts, minilm, files_in(folder), 11)
        while next(events).documents < 4:
            pass
        events.close()

    list(write_chunks(lambda: changed, minilm, files_in(tmp_path / "whole"), 11))
    begin(tmp_path / "file")
    events = list(write_chunks(lambda: changed, minilm, files_in(tmp_path / "file"), 11))
    assert "have changed" in events[0].note
    assert contents(tmp_path / "file") == contents(tmp_path / "whole")

    begin(tmp_path / "pipe")  # which cannot be read twice
    again = {"tokenizer": minilm, "out": files_in(tmp_path / "pipe"), "chunk_size": 11, "reopens": False}
    with pytest.raises(InputError, match="not those that were begun with.*run the command again"):
        list(write_chunks(lambda: changed, **again))
    list(write_chunks(lambda: changed, **again))
    assert contents(tmp_path / "pipe") == contents(tmp_path / "whole")

    begin(tmp_path / "size")
    list(write_chunks(lambda: texts, minilm, files_in(tmp_path / "size"), 7))
    assert np.load(tmp_path / "size" / "chunks.npy").shape[1] == 7


def test_two_processes_do_not_write_one_file(minilm, tmp_path):
    events = write_chunks(lambda: [["a"], ["b"]], minilm, files_in(tmp_path), 11)
    next(events)
    with pytest.raises(DatastoreError, match="Another process is making .*chunks.npy"):
        next(write_chunks(lambda: [["a"]], minilm, files_in(tmp_path), 11))
    events.close()


def test_a_full_disk_is_told_and_nothing_is_lost(minilm, tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_files, "_BLOCKS_AT_ONCE", 1)
    monkeypatch.setattr(unfinished, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    append, calls = files.ArrayWriter.append, []

    def full(self, rows):
        calls.append(rows)
        if len(calls) > 3 * 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(files.ArrayWriter, "append", full)
        with pytest.raises(DatastoreError, match="chunks.npy: No space left on device. Make room there"):
            list(write_chunks(edge_texts, minilm, files_in(tmp_path), 64))
    events = list(write_chunks(edge_texts, minilm, files_in(tmp_path), 64))
    assert events[0].note == "going on after document 5" and contents(tmp_path) == contents(EDGE)


def test_more_chunks_than_allowed_lose_nothing(minilm, tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_files, "_BLOCKS_AT_ONCE", 1)
    out = files_in(tmp_path)
    with pytest.raises(InputError, match="at most 6 chunks .*document number 5, counted from 0, needs more"):
        list(write_chunks(edge_texts, minilm, out, 64, max_chunks=6))
    assert not out.chunks.exists()
    events = list(write_chunks(edge_texts, minilm, out, 64, max_chunks=14))
    assert events[0].note == "going on after document 5" and contents(tmp_path) == contents(EDGE)


def test_lines_that_are_blank_or_wrong(tmp_path):
    def read(data: bytes) -> list[list[str]]:
        (tmp_path / "x.jsonl").write_bytes(data)
        with open(tmp_path / "x.jsonl", "rb") as lines:
            return list(jsonl_texts(lines, "x.jsonl"))

    assert read(b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"text": "", "id": 1}\n{"text": "b\\r\\n"}') == [
        ["a"], [""], ["b\r\n"],
    ]  # fmt: skip
    assert read(b'{"text": "\\ud800 \\ud83d\\ude00"}') == [["\ufffd\ufffd\ufffd 😀"]]
    for data, sentence in [
        (b'{"text": "a"}\n{\n', "Line 2 of x.jsonl is not valid JSON"),
        (b'{"txt": "a"}\n', 'Line 1 of x.jsonl: expected an object like {"text": "…"}'),
        (b'{"text": 3}\n', "Put the text under"),
        (b'{"text": "\xff"}\n', "Line 1 of x.jsonl is not UTF-8"),
    ]:
        with pytest.raises(CorpusError) as caught:
            read(data)
        assert sentence in str(caught.value)


def test_nothing_to_do_is_told(minilm, tmp_path):
    with pytest.raises(CorpusError, match="no documents"):
        list(write_chunks(lambda: [], minilm, files_in(tmp_path), 64))
    with pytest.raises(InputError, match="at least 1 token, got 0"):
        list(write_chunks(lambda: [["a"]], minilm, files_in(tmp_path), 0))


def test_ids_beyond_16_bits_do_not_wrap(tmp_path):
    vocabulary = {"<pad>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, 70_001)}}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = MarkedTokenizer(inner, "wide", "safe")
    list(write_chunks(lambda: [["w70000 w65536 w7"]], tokenizer, files_in(tmp_path), 5))
    chunks = np.load(tmp_path / "chunks.npy")
    assert chunks.dtype == np.int32 and chunks.tolist() == [[70_000, 65_536, 7, 1, 0]]
    assert tokenizer.decode(chunks) == ["w70000 w65536 w7"]


def test_spelled_special_tokens(minilm):
    text = "a [SEP] b [PAD] c"
    assert {102, 0} <= set(minilm.encode([text])[0].tolist()), "as the reference"
    assert (minilm.prefix, minilm.suffix) == ([101], [102])
    safe = MarkedTokenizer(tokenizers.Tokenizer.from_str(minilm.to_json()), "safe", "safe")
    ids = safe.encode([text])[0]
    assert not {102, 0} & set(ids.tolist()) and (safe.prefix, safe.suffix) == ([], [102])
    with pytest.raises(
        MismatchError, match="hold token 30522, but the tokenizer 'all-MiniLM-L6-v2' has only 30,522"
    ):
        minilm.decode(np.array([[30_522]]))


def test_what_is_embedded_is_the_text_without_marks(minilm):
    chunks = np.load(EDGE / "chunks.npy")
    assert minilm.decode(chunks[:2]) == ["", ""]
    assert minilm.decode(np.array([[101, 2079, 2025, 1012, 102, 0]])) == ["do not."], "nothing is tidied up"


def test_a_tokenizer_by_any_name(tokenizer, tmp_path, retro_home, monkeypatch):
    folder = retro_home / "models" / "own"
    folder.mkdir(parents=True)
    tokenizer.save(folder)
    names = [folder, folder / "tokenizer.json", "own"]
    assert {open_tokenizer(name).fingerprint for name in names} == {tokenizer.fingerprint}
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name that holds none does not hide the model
    assert open_tokenizer("own").fingerprint == tokenizer.fingerprint
    keep_tokenizer(open_tokenizer("own"), tmp_path / "data")
    keep_tokenizer(open_tokenizer("own"), tmp_path / "data")
    assert open_tokenizer(tmp_path / "data").fingerprint == tokenizer.fingerprint
    with pytest.raises(MismatchError, match="is another tokenizer .* Write the chunks to another folder"):
        keep_tokenizer(open_tokenizer("all-MiniLM-L6-v2"), tmp_path / "data")
    (tmp_path / "bad.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="bad.json is not a tokenizer file"):
        open_tokenizer(tmp_path / "bad.json")
    with pytest.raises(CheckpointError, match="found no such file"):
        open_tokenizer(tmp_path)
