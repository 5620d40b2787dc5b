"""A build shows its progress, and leaves a whole datastore or what was there before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SENTENCES

from indexing import files, paths
from indexing.build import build
from indexing.corpus import Document, read_files, read_text
from indexing.datastore import Datastore, list_datastores
from indexing.embedder import PROBES
from indexing.errors import CorpusError, DatastoreError, InputError

M = 16


def texts(count: int) -> list[Document]:
    return [read_text(f"{SENTENCES[i % 6]} Number {i}.", f"t{i}") for i in range(count)]


def listed() -> dict[str, int]:
    """Name -> number of documents of the user's own datastores."""
    return {info.name: info.num_documents for info in list_datastores() if not info.bundled}


def leftovers() -> list[str]:
    folder = paths.datastores_dir()
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    return [name for name in found if not name.endswith(".lock")]


def test_events_count_up_through_the_stages(tokenizer, embedder):
    events = list(build("notes", iter(texts(120)), tokenizer, embedder, chunk_size=M))
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["reading", "embedding", "saving", "done"]
    for stage in ("reading", "embedding"):
        counts = [event.done for event in events if event.stage == stage]
        assert counts == sorted(counts) and len(counts) > 2
        last = [event for event in events if event.stage == stage][-1]
        assert last.done == last.total > 0
    num_chunks = len(Datastore.open("notes").chunks)
    assert events[-1].message == f"Built 'notes': 120 documents, {num_chunks} chunks."


def test_repeated_texts_and_ids_are_kept_told_and_told_apart(tokenizer, embedder):
    twins = [Document("a", "A", "same text", "x"), Document("a", "B", "same text", "y"), *texts(1)]
    *_, last = build("twins", twins, tokenizer, embedder)
    assert "3 documents" in last.message and "1 document with the same text" in last.message
    assert [document.id for document in Datastore.open("twins").documents[:2]] == ["a", "a#2"]


def test_small_and_strange_corpora(tokenizer, embedder):
    strange = "A text with <pad> and </s> in it, 東京 too."
    list(build("one", [read_text(strange)], tokenizer, embedder))
    datastore = Datastore.open("one", embedder=embedder)
    assert (np.asarray(datastore.chunks.tokens) == tokenizer.end_id).sum() == 1
    (hit,) = datastore.search("tokyo", 3)
    assert hit.text == strange and hit.continuation == ""
    with pytest.raises(CorpusError, match="no documents"):
        list(build("none", [], tokenizer, embedder))
    with pytest.raises(InputError, match="at least 1 token"):
        list(build("none", texts(1), tokenizer, embedder, chunk_size=0))
    assert leftovers() == ["one"]


def test_a_broken_line_builds_nothing(tokenizer, embedder, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' * 6 + '{"text": oops}\n')
    with pytest.raises(CorpusError, match="Line 7 of rows.jsonl is not valid JSON"):
        list(build("rows", read_files([path]), tokenizer, embedder))
    assert listed() == {} and leftovers() == []


@pytest.mark.parametrize("stage", ["reading", "embedding", "saving"])
def test_closing_the_generator_leaves_nothing(tokenizer, embedder, stage):
    events = build("notes", texts(120), tokenizer, embedder, chunk_size=M)
    next(event for event in events if event.stage == stage)
    events.close()
    assert leftovers() == []


def test_an_existing_name_is_refused_or_replaced_whole(tokenizer, embedder, monkeypatch):
    list(build("notes", texts(1), tokenizer, embedder))
    before = Datastore.open("notes").fingerprint
    with pytest.raises(DatastoreError, match="'notes' exists already. Choose another name"):
        next(build("notes", texts(2), tokenizer, embedder))
    with pytest.raises(InputError, match="cannot be used as a name"):
        next(build("../notes", texts(2), tokenizer, embedder))

    close = files.ArrayWriter.close
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(files.ArrayWriter, "close", lambda self: (_ for _ in ()).throw(full))
    with pytest.raises(DatastoreError, match="Cannot write the datastore 'notes'.*No space left.*RETRO_HOME"):
        list(build("notes", texts(2), tokenizer, embedder, replace=True))
    assert Datastore.open("notes").fingerprint == before and leftovers() == ["notes"]

    monkeypatch.setattr(files.ArrayWriter, "close", close)
    list(build("notes", texts(2), tokenizer, embedder, replace=True))
    assert Datastore.open("notes").num_documents == 2 and leftovers() == ["notes"]


def test_the_second_of_two_builds_of_one_name_is_told_so(tokenizer, embedder):
    slow = build("notes", texts(60), tokenizer, embedder, chunk_size=M)
    next(slow)
    with pytest.raises(DatastoreError, match="'notes' is being changed at this moment.*Wait until"):
        list(build("notes", texts(1), tokenizer, embedder))
    assert list(slow)[-1].stage == "done"
    assert Datastore.open("notes").num_documents == 60 and leftovers() == ["notes"]


KILLED = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from conftest import SENTENCES
from fakes import HashingEmbedder
from indexing import catalogue, files
from indexing.build import build
from indexing.corpus import read_text
from indexing.tokenizer import train_byte_level_bpe

def wait(*_):
    print("now", flush=True)
    time.sleep(60)

embedder = HashingEmbedder()
if {stage!r} == "embedding":
    embedder.embed = wait
elif {stage!r} == "saving":
    files.write_json = wait
else:
    catalogue.create = wait
tokenizer = train_byte_level_bpe(SENTENCES * 3, vocab_size=400, name="tiny")
list(build("notes", [read_text(s) for s in SENTENCES], tokenizer, embedder, replace={replace}))
"""


CUT_OFF = (
    KILLED.split("embedder = HashingEmbedder()")[0]
    + """
embedder = HashingEmbedder()
embed = embedder.embed

def slowly(texts):
    if embedder.num_embedded:
        wait()
    time.sleep(2.1)  # what is embedded is put on the disk every two seconds
    return embed(texts)

embedder.embed = slowly
tokenizer = train_byte_level_bpe(SENTENCES * 3, vocab_size=400, name="tiny")
texts = [read_text(f"{{SENTENCES[i % 6]}} Number {{i}}.", f"t{{i}}") for i in range(60)]
list(build("notes", texts, tokenizer, embedder, chunk_size=16))
"""
)


def test_what_was_embedded_before_sigkill_is_not_embedded_again(tokenizer, embedder):
    code = CUT_OFF.format(
        root=str(paths.ASSETS.parent), tests=str(Path(__file__).parent), stage="", replace=False
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "now\n"
        os.kill(process.pid, signal.SIGKILL)
    assert listed() == {}
    list(build("notes", texts(60), tokenizer, embedder, chunk_size=M))
    datastore = Datastore.open("notes", embedder=embedder)
    assert embedder.num_embedded == len(datastore.chunks) - 64 + len(PROBES) and leftovers() == ["notes"]
    decoded = [tokenizer.decode(chunk) for chunk in np.asarray(datastore.chunks.tokens)]
    assert np.array_equal(datastore.embeddings, embedder.embed(decoded).astype(np.float16))
    # Other texts, or giving up, leave nothing to go on with.
    events = build("other", texts(60), tokenizer, embedder, chunk_size=M)
    next(event for event in events if event.stage == "embedding" and event.done)
    events.close()
    assert leftovers() == ["notes"]


@pytest.mark.parametrize("stage", ["embedding", "saving", "commit"])
@pytest.mark.parametrize("existing", [False, True])
def test_sigkill_leaves_what_was_there_and_the_name_usable(tokenizer, embedder, stage, existing):
    if existing:
        list(build("notes", texts(1), tokenizer, embedder))
    code = KILLED.format(
        root=str(paths.ASSETS.parent), tests=str(Path(__file__).parent), stage=stage, replace=existing
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "now\n"
        os.kill(process.pid, signal.SIGKILL)
    assert listed() == ({"notes": 1} if existing else {})
    assert len([name for name in leftovers() if ".vectors" not in name]) == 1 + existing
    list(build("notes", texts(3), tokenizer, embedder, replace=existing))
    assert Datastore.open("notes").num_documents == 3 and leftovers() == ["notes"]
