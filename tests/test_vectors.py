"""Embedding that is killed goes on where it was, and ends in the same file."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import HashingEmbedder

from indexing import vectors
from indexing.vectors import embed_rows

ROOT = Path(__file__).parent.parent
BLOCK, TOTAL = 7, 150  # the last block is not a whole one
TEXTS = [f"text {i} of {i % 11} and {i * i % 23} words" for i in range(TOTAL)]
# Each embedded text leaves a byte in the file of the first argument, whenever its process is killed.
CHILD = f"""
import sys, time, pathlib
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from fakes import HashingEmbedder
from indexing import vectors
from test_vectors import BLOCK, TEXTS
class Counting(HashingEmbedder):
    def embed(self, texts):
        with open(sys.argv[1], "ab") as file:
            file.write(b"." * len(texts))
        time.sleep(0.01)
        return super().embed(texts)
vectors._SECONDS_BETWEEN_SYNCS = 0
print("begins", flush=True)
for _ in vectors.embed_rows(TEXTS, Counting(), pathlib.Path(sys.argv[2]), block=BLOCK):
    pass
"""


def run(texts, path, embedder=None, block=BLOCK, **more) -> int:
    """Embed to the end; how many texts were embedded."""
    embedder = embedder or HashingEmbedder()
    done = list(embed_rows(texts, embedder, path, block=block, **more))
    assert done[-1] == len(texts) and done == sorted(done)
    return embedder.num_embedded


def interrupted(path, blocks: int, texts=TEXTS) -> None:
    """What is left when so many blocks were done."""
    running = embed_rows(texts, HashingEmbedder(), path, block=BLOCK)
    for _ in range(blocks):
        next(running)
    running.close()


def expected(texts=TEXTS) -> np.ndarray:
    return HashingEmbedder().embed(texts).astype(np.float16)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_writes_what_numpy_would(tmp_path):
    assert run(TEXTS, tmp_path / "x.npy") == TOTAL
    np.save(tmp_path / "y.npy", expected())
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()
    assert names(tmp_path) == ["x.npy", "y.npy"]
    assert run([], tmp_path / "none.npy") == 0
    assert np.load(tmp_path / "none.npy").shape == (0, 48)


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def killed_until_done(folder: Path, kills: int, forget: bool = False) -> int:
    """Start again and again, killing at random moments; how many texts were embedded in all."""
    chance, path, count = random.Random(5), folder / "x.npy", folder / "count"
    for life in range(kills + 1):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(count), str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout and process.stdout.readline() == "begins\n"
        if life < kills:
            enough = size(count) + chance.randrange(1, 9) * BLOCK
            while size(count) < enough and process.poll() is None:
                time.sleep(0.0005)
            time.sleep(chance.uniform(0, 0.012))
            process.kill()
            if forget:
                (folder / "x.npy.journal").unlink(missing_ok=True)
        process.communicate()
    assert process.returncode == 0
    return size(count)


def test_killed_at_random_points_it_ends_in_the_same_file(tmp_path):
    kills = 4
    embedded = killed_until_done(tmp_path, kills)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected())
    assert not (tmp_path / "x.npy.part").exists() and not (tmp_path / "x.npy.journal").exists()
    assert TOTAL <= embedded <= TOTAL + kills * BLOCK
    # The control: without a journal work is done again, so the kills do hit it.
    (tmp_path / "control").mkdir()
    assert killed_until_done(tmp_path / "control", kills, forget=True) > TOTAL + kills * BLOCK


def test_a_stopped_one_goes_on(tmp_path):
    path = tmp_path / "x.npy"
    interrupted(path, 13)
    assert not path.exists()
    assert run(TEXTS, path) == TOTAL - 13 * BLOCK
    np.testing.assert_array_equal(np.load(path), expected())


@pytest.mark.parametrize(
    "edit, redone", [("text", 1), ("order", 2), ("border", 1), ("fewer", 1), ("more", 1)]
)
def test_changed_texts_are_embedded_again_by_block(tmp_path, edit, redone):
    path, texts = tmp_path / "x.npy", list(TEXTS)
    interrupted(path, 21)  # of 22
    if edit == "text":
        texts[3] += "!"
    elif edit == "order":
        texts[2], texts[50] = texts[50], texts[2]
    elif edit == "border":  # the same characters in a row, in other texts
        texts[0], texts[1] = texts[0] + texts[1][0], texts[1][1:]
    elif edit == "fewer":
        del texts[100:]
        redone = 100 % BLOCK / BLOCK
    else:
        texts += ["one more", "and another"]
    rest = 0 if edit == "fewer" else len(texts) - 21 * BLOCK
    assert run(texts, path) == rest + (0 if edit == "more" else redone * BLOCK)
    np.testing.assert_array_equal(np.load(path), expected(texts))


@pytest.mark.parametrize("change", ["embedder", "dtype", "block"])
def test_other_work_begins_anew(tmp_path, change):
    path = tmp_path / "x.npy"
    interrupted(path, 9)
    embedder = HashingEmbedder("another", dim=48) if change == "embedder" else HashingEmbedder()
    more = {"dtype": np.float32} if change == "dtype" else {"block": 5} if change == "block" else {}
    assert run(TEXTS, path, embedder, **more) == TOTAL


def test_damage_costs_the_blocks_concerned(tmp_path):
    path, part, journal = (tmp_path / name for name in ("x.npy", "x.npy.part", "x.npy.journal"))
    interrupted(path, 21)
    damaged = bytearray(part.read_bytes())
    damaged[128 + (4 * BLOCK + 2) * 48 * 2] ^= 1
    part.write_bytes(damaged)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:-9])
    assert run(TEXTS, path) == TOTAL - 21 * BLOCK + 2 * BLOCK
    np.testing.assert_array_equal(np.load(path), expected())


def test_damage_would_pass_without_the_checksums(tmp_path, monkeypatch):
    """The control of the test above."""
    path, part = tmp_path / "x.npy", tmp_path / "x.npy.part"
    interrupted(path, 21)
    damaged = bytearray(part.read_bytes())
    damaged[128 + 30 * 48 * 2] ^= 1
    part.write_bytes(damaged)
    monkeypatch.setattr(vectors, "_is_done", lambda entry, *_: entry is not None)
    run(TEXTS, path)
    assert (np.load(path) != expected()).any()


def test_cut_off_after_the_last_row_nothing_is_done_again(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"

    def power_fails(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(vectors.files, "sync", power_fails)
        with pytest.raises(KeyboardInterrupt):
            run(TEXTS, path)
    assert names(tmp_path) == ["x.npy", "x.npy.journal"]
    assert run(TEXTS, path) == 0
    np.testing.assert_array_equal(np.load(path), expected())
    assert names(tmp_path) == ["x.npy"]


def test_an_earlier_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x.npy"
    run(TEXTS[:20], path)
    interrupted(path, 3)
    assert len(np.load(path)) == 20
    run(TEXTS, path)
    assert len(np.load(path)) == TOTAL


class Slices:
    """Texts that are never in memory together."""

    def __len__(self):
        return TOTAL

    def __getitem__(self, rows):
        assert isinstance(rows, slice) and rows.stop - rows.start <= BLOCK
        return TEXTS[rows]


def test_no_more_than_a_block_is_asked_for(tmp_path):
    run(Slices(), tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected())


def test_the_journal_vouches_for_rows_already_on_the_disk(tmp_path, monkeypatch):
    """Lines are written after the rows they speak of were synced: a power cut takes lines, not rows alone."""
    synced, part = [], tmp_path / "x.npy.part"
    monkeypatch.setattr(vectors, "_SECONDS_BETWEEN_SYNCS", 0)

    def fsync(descriptor):
        lines = (tmp_path / "x.npy.journal").read_bytes().splitlines()
        synced.append((Path(f"/proc/self/fd/{descriptor}").resolve() == part, len(lines)))

    monkeypatch.setattr(vectors.os, "fsync", fsync)
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("asks Linux which file a descriptor is")
    interrupted(tmp_path / "x.npy", 4)
    rows, log = synced[::2], synced[1::2]
    assert all(is_part for is_part, _ in rows) and not any(is_part for is_part, _ in log)
    assert [count for _, count in rows[:4]] == [0, 2, 3, 4]
    assert json.loads((tmp_path / "x.npy.journal").read_bytes().splitlines()[0])["block"] == BLOCK
