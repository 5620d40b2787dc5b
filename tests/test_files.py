"""Files and folders appear whole or not at all."""

import os
import subprocess
import sys

import numpy as np
import pytest

from indexing import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_bytes_keeps_the_old_content_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a" / "settings.json"
    files.write_json(path, {"wörd": 1})
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_bytes(path, b"new")
    assert path.read_text() == '{\n  "wörd": 1\n}\n' and names(path.parent) == ["settings.json"]


def test_new_folder_appears_at_the_end_only(tmp_path):
    target = tmp_path / "notes"
    with files.new_folder(target) as work:
        (work / "file").write_text("x")
        assert not target.exists()
    assert names(tmp_path) == ["notes"] and (target / "file").read_text() == "x"
    with pytest.raises(FileExistsError), files.new_folder(target) as work:
        (work / "file").write_text("y")
    assert names(tmp_path) == ["notes"] and (target / "file").read_text() == "x"


def test_remains_of_dead_processes_are_swept_and_living_ones_left(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getpid()):
        (tmp_path / f"{files.UNFINISHED}notes-{process}-abc").mkdir()
    with files.new_folder(tmp_path / "notes"):
        pass
    assert names(tmp_path) == [f"{files.UNFINISHED}notes-{os.getpid()}-abc", "notes"]


@pytest.mark.parametrize("failing_rename", [None, 1, 2])
def test_replacing_never_loses_the_old_folder(tmp_path, monkeypatch, failing_rename):
    target = tmp_path / "notes"
    target.mkdir()
    (target / "file").write_text("old")
    rename, calls = os.rename, []

    def counted(source, destination):
        calls.append(source)
        if len(calls) == failing_rename:
            raise OSError(5, "input/output error")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", counted)
    try:
        with files.new_folder(target, replace=True) as work:
            (work / "file").write_text("new")
    except OSError:
        pass
    assert names(tmp_path) == ["notes"]
    assert (target / "file").read_text() == ("old" if failing_rename else "new")


def test_recover_after_a_crash_between_the_two_renames(tmp_path):
    target, previous = tmp_path / "notes", tmp_path / f"{files.PREVIOUS}notes"
    previous.mkdir()
    files.recover(target)
    assert names(tmp_path) == ["notes"]
    previous.mkdir()
    files.recover(target)
    assert names(tmp_path) == ["notes"], "the new one came, so the old one goes"


def test_arrays_written_row_by_row_are_what_numpy_saves(tmp_path):
    numbers = np.random.default_rng(3)
    for dtype, shape in ((np.uint16, (5,)), (np.float16, (3, 2)), (np.int64, ())):
        whole = (numbers.random((1013, *shape)) * 1000).astype(dtype)
        with files.ArrayWriter(tmp_path / "rows.npy", dtype, shape) as writer:
            for start in (0, 1, 8, 8, 700):
                stop = {0: 1, 1: 8, 8: 700, 700: 1013}[start] if len(writer) <= start else start
                writer.append(whole[start:stop])
        np.save(tmp_path / "saved.npy", whole)
        assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()
    with files.ArrayWriter(tmp_path / "none.npy", np.int32, (7,)):
        pass
    assert np.load(tmp_path / "none.npy").shape == (0, 7)
    with (
        pytest.raises(ValueError, match="expected rows"),
        files.ArrayWriter(tmp_path / "x", np.int64) as writer,
    ):
        writer.append(np.zeros((2, 3)))


def test_rows_are_appended_to_an_unfinished_file(tmp_path):
    whole = np.random.default_rng(3).integers(0, 1 << 16, (101, 7)).astype(np.uint16)
    path = tmp_path / "rows.npy"
    writer = files.ArrayWriter(path, np.uint16, (7,))
    writer.append(whole[:53])
    writer.sync()  # and then the process dies: the header tells of no rows yet
    writer.append(whole[80:])
    writer._file.close()
    with files.ArrayWriter(path, np.uint16, (7,), keep=53) as writer:
        assert len(writer) == 53
        writer.append(whole[53:])
    np.save(tmp_path / "saved.npy", whole)
    assert path.read_bytes() == (tmp_path / "saved.npy").read_bytes()
    with pytest.raises(ValueError, match="fewer than 102 rows"):
        files.ArrayWriter(path, np.uint16, (7,), keep=102)
