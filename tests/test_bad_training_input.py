"""What would stop a training run later is told before it begins: nothing is written, no weights are made."""

import json
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from conftest import SENTENCES
from training_set import M, config, make_training_set, tiny_sizes

from indexing import paths
from indexing.errors import CheckpointError, ConfigError, InputError, MismatchError, TrainingError
from indexing.tokenizer import train_byte_level_bpe
from retro_core import estimates, training
from retro_core.cli import main
from retro_core.config import TrainConfig, as_arguments

ROOT = Path(__file__).parent.parent
GB = 1_000_000_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make_training_set(folder, tokenizer)
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A training set of one's own, to be broken."""
    return Path(shutil.copytree(whole, tmp_path / "set"))


def settings(folder: Path, **changes) -> TrainConfig:
    material = {
        "data_spec": str(folder / "data" / "data.spec.json"),
        "validation": str(folder / "held-out" / "data.spec.json"),
        "tokenizer": str(folder), "model": str(folder / "model.json"),
    }  # fmt: skip
    return config(material, **changes)


def spec(folder: Path, change) -> None:
    path = folder / "data" / "data.spec.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def array(name: str, change):
    def broken(folder: Path) -> None:
        values = np.load(folder / name)
        np.save(folder / name, change(values))

    return broken


def last_is_900(tokens: np.ndarray) -> np.ndarray:
    tokens[-1] = 900
    return tokens


def only(name: str, chunks: int):
    """Of every document only the first tokens: `chunks` chunks of it, or nothing but padding for 0."""

    def broken(folder: Path) -> None:
        where = folder / name
        tokens, first = np.load(where / "chunks.npy"), np.load(where / "seq2chunk.npy")
        tokens = tokens[first] if chunks else tokens[first] * 0
        np.save(where / "chunks.npy", tokens)
        np.save(where / "chunk2seq.npy", np.arange(len(first)))
        np.save(where / "seq2chunk.npy", np.arange(len(first)))
        np.save(where / "neighbours.npy", np.zeros((len(first), 2), int))

    return broken


def empty(name: str):
    def broken(folder: Path) -> None:
        for file in ("chunks", "chunk2seq", "seq2chunk", "neighbours"):
            path = folder / name / f"{file}.npy"
            np.save(path, np.load(path)[:0])

    return broken


def other_tokenizer(folder: Path) -> None:
    """As large as the run's, and not the same."""
    texts = [text[::-1] for text in SENTENCES * 3]
    train_byte_level_bpe(texts, vocab_size=400, name="other").save(folder / "data")


def write(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def renamed(value: dict) -> None:
    value["shards"][0]["neighbors"] = value["shards"][0].pop("neighbours")


BROKEN = {
    "no spec": (lambda f: (f / "data/data.spec.json").unlink(), {}, InputError, "Cannot read the spec .*"),
    "key missing": (lambda f: spec(f, lambda v: v["shards"][0].pop("chunk2seq")), {}, InputError,
                    "data.spec.json to list shards, .*shard 0 has no path 'chunk2seq'"),
    "key unknown": (lambda f: spec(f, renamed), {}, InputError, "no path 'neighbours', but 'neighbors'"),
    "no index spec": (lambda f: spec(f, lambda v: v.pop("neighbours")), {}, InputError,
                      "names no index_spec. It belongs under the key 'neighbours'"),
    "index key missing": (write("data/i.json", "[{}]"), {}, InputError, "i.json to list shards, .*'chunks'"),
    "file missing": (lambda f: (f / "data/neighbours.npy").unlink(), {}, InputError,
                     "Cannot read the array .*neighbours.npy: .*No such file"),
    "fewer documents numbers": (array("data/chunk2seq.npy", lambda a: a[:-1]), {}, InputError,
                                "chunks.npy has 2,.* chunks, but .*chunk2seq.npy tells the document of"),
    "other documents": (array("data/seq2chunk.npy", lambda a: a[1:]), {}, InputError,
                        "seq2chunk.npy tells the first chunks of 599 documents, not those of .*chunk2seq"),
    "disorder": (array("data/chunk2seq.npy", lambda a: a[::-1].copy()), {}, InputError, "were made together"),
    "fewer neighbours": (array("data/neighbours.npy", lambda a: a[:-1]), {}, InputError,
                         "Expected neighbours of shape .* got .* in .*neighbours.npy"),
    "too few each": (None, {"num_neighbours": 3}, InputError, "at least 3.*or ask for fewer of each chunk"),
    "outside the index": (array("data/neighbours.npy", lambda a: a + 1), {}, InputError,
                          "neighbours.npy are numbered 1 to .*, but the index of .* has"),
    "no whole numbers": (array("data/neighbours.npy", lambda a: a * 1.0), {}, InputError, "got float64"),
    "chunk size": (write("model.json", ""), {"model": "toy"}, InputError,
                   "The model's chunk_size is 64, but .*data.spec.json has chunks of 8 tokens"),
    "unknown ids": (array("data/chunks.npy", last_is_900), {}, InputError, "token 900, but the model knows"),
    "negative ids": (array("data/chunks.npy", lambda a: a.astype(int) - 3), {}, InputError, "hold token -"),
    "another tokenizer": (other_tokenizer, {}, MismatchError,
                          "made with the tokenizer that lies there, but the run has .*which gives other ids"),
    "no documents": (empty("data"), {}, InputError, "holds no document: its shards are empty"),
    "one chunk each": (only("data", 1), {}, InputError, "No document of the training set has more than one"),
    "held out, no text": (only("held-out", 0), {}, InputError, "held-out documents .* have no token to"),
    "held out, no documents": (empty("held-out"), {}, InputError, "held-out.*holds no document"),
    "subset outside": (write("subset.txt", "3\n600\n"), {"training_data_subset_indices": "subset.txt"},
                       InputError, "number of a document, 0 to 599, in line 2 of .*subset.txt, got '600'"),
    "subset empty": (write("subset.txt", "\n"), {"validation_data_subset_indices": "subset.txt"}, InputError,
                     "subset.txt names no document"),
    "window": (None, {"max_len": 4 * M + 1}, InputError, "multiple of the chunk size 8"),
    "no model": (None, {"model": "huge"}, ConfigError, "'huge' is neither a preset"),
    "no base": (None, {"base": "absent"}, CheckpointError, "The base 'absent' is not here.*Fetch it with"),
    "no name": (None, {"run": "A B"}, InputError, "cannot be used as a name"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_what_does_not_fit_is_told_before_any_work(folder, retro_home, monkeypatch, kind):
    damage, changes, error, sentence = BROKEN[kind]
    if damage:
        damage(folder)
    changes = {key: str(folder / value) if value == "subset.txt" else value for key, value in changes.items()}

    def make(*_):
        raise AssertionError("weights were made")

    monkeypatch.setattr(training, "_prepare", make)
    with pytest.raises(error) as caught:
        next(training.train(settings(folder, **changes)))
    assert re.search(sentence, str(caught.value)), str(caught.value)
    assert str(caught.value).endswith((".", ".`")) and not retro_home.exists()


def test_too_little_memory_is_told_with_numbers_and_what_would_fit(folder, monkeypatch, retro_home):
    # Of a batch large enough to be most of what a run of this tiny model needs.
    wide = {"batch_size": 4000}
    found = estimates.estimate(settings(folder, **wide), with_time=False)
    assert found.step_bytes > found.memory_bytes / 2
    monkeypatch.setattr(estimates, "free_memory", lambda: found.memory_bytes - found.step_bytes // 2)
    with pytest.raises(TrainingError, match="Run 'try' needs about .* of memory: .* are free") as caught:
        next(training.train(settings(folder, **wide)))
    fits, times = map(
        int, re.search(r"batch_size (\d+) would fit; .*batches (\d+)", str(caught.value)).groups()
    )
    assert 1850 < fits < 1950 and times == 3
    estimates.check(settings(folder, batch_size=fits))
    monkeypatch.setattr(estimates, "free_memory", lambda: 1000)
    with pytest.raises(TrainingError, match="0 MB are free. Choose a smaller model"):
        estimates.check(settings(folder))
    assert not retro_home.exists()


def test_too_little_room_on_the_disk_is_told(folder, monkeypatch, retro_home):
    found = estimates.estimate(settings(folder), with_time=False)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(estimates.shutil, "disk_usage", lambda path: usage(GB, 0, found.disk_bytes - 1))
    with pytest.raises(
        TrainingError, match="needs about .* in .*runs, for 3 checkpoints and one being written"
    ):
        next(training.train(settings(folder)))
    monkeypatch.setattr(estimates.shutil, "disk_usage", lambda path: usage(GB, 0, found.disk_bytes))
    estimates.check(settings(folder))
    assert not retro_home.exists()


def test_held_out_documents_that_are_in_the_training_set_are_a_warning(folder):
    assert estimates.check(settings(folder)).warnings == ()
    for name in ("chunks", "chunk2seq", "seq2chunk", "neighbours"):
        values = np.load(folder / "data" / f"{name}.npy")
        chunks = int(np.load(folder / "data" / "seq2chunk.npy")[7])
        count = 7 if name == "seq2chunk" else chunks
        np.save(folder / "held-out" / f"{name}.npy", values[:count] * (name != "neighbours"))
    assert estimates.check(settings(folder)).warnings == (
        "7 of the 7 held-out documents begin like a document of the training set. What is measured on them "
        "is partly memory.",
    )


def test_limits_of_containers_count(tmp_path):
    def files(values: dict[str, str]) -> None:
        for name, text in values.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    assert estimates.free_memory(tmp_path) is None, "not a Linux"
    files({"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:  5000 kB\n"})
    assert estimates.free_memory(tmp_path) == 5000 * 1024
    group = "sys/fs/cgroup/all/one"
    files({
        "proc/self/cgroup": "0::/all/one\n",
        f"{group}/memory.max": "max", f"{group}/memory.current": "7", f"{group}/memory.stat": "anon 1\n",
        "sys/fs/cgroup/all/memory.max": "3000", "sys/fs/cgroup/all/memory.current": "1100",
        "sys/fs/cgroup/all/memory.stat": "anon 600\ninactive_file 500\n",
    })  # fmt: skip
    assert estimates.free_memory(tmp_path) == 3000 - 1100 + 500, "a group above limits too"
    own = "sys/fs/cgroup/memory"
    files({
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/abc\n",  # of a container, which sees its own on top
        f"{own}/memory.limit_in_bytes": "2000", f"{own}/memory.usage_in_bytes": "1700",
        f"{own}/memory.stat": "inactive_file 9\ntotal_inactive_file 30\n",
    })  # fmt: skip
    assert estimates.free_memory(tmp_path) == 330
    files({f"{own}/memory.usage_in_bytes": "9999"})
    assert estimates.free_memory(tmp_path) == 0


def test_an_estimate_is_printed_and_counts_what_there_is(folder, capsys, tokenizer):
    assert main(["estimate", *as_arguments(settings(folder, steps=4000)), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    sizes = tiny_sizes(tokenizer)
    d, f, v = sizes["dec_hidden_dim"], sizes["dec_ffn_dim"], sizes["num_embeddings"]
    assert found["parameters"] == found["trained"] > v * d + 3 * (4 * d * d + 3 * d * f)
    assert found["memory_bytes"] > 16 * found["parameters"] + found["step_bytes"] and found["step_bytes"] > 0
    assert found["disk_bytes"] > 4 * 12 * found["parameters"] and 0 < found["seconds"] < 10_000
    assert main(["estimate", *as_arguments(settings(folder, batch_size=4))[1:], "--data-spec=x"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Cannot read the spec" in captured.err
    words = [estimates.in_words(seconds) for seconds in (20, 60, 2400, 3700, 9000, 200_000, None)]
    assert words == [
        "less than a minute", "about one minute", "about 40 minutes", "about one hour", "about 2 hours",
        "about 2 days", "nobody knows how long",
    ]  # fmt: skip


CHILD = """
import json, sys
from retro_core import training
from retro_core.config import TrainConfig
config = TrainConfig(**json.loads(sys.argv[1]))
steps = [event for event in training.train(config)]
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({"peak": int(status["VmHWM"].split()[0]) * 1024}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="the kernel does not tell a program's peak"
)
@pytest.mark.parametrize("width, layers, batch", [(48, 2, 500), (512, 4, 20), (640, 4, 60)])
def test_the_estimate_is_near_what_a_run_takes(folder, tokenizer, width, layers, batch):
    """Of many tokens and few weights, of few and many, and of both."""
    sizes = tiny_sizes(tokenizer, dec_num_layers=layers)
    for part in ("enc", "dec"):
        sizes |= {f"{part}_hidden_dim": width, f"{part}_ffn_dim": 2 * width, f"{part}_qkv_dim": width}
    (folder / "model.json").write_text(json.dumps(sizes))
    run = settings(folder, steps=3, save_every=1, batch_size=batch, device="cpu")
    found = estimates.estimate(run, with_time=False)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(run.to_dict())], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    peak = json.loads(done.stdout)["peak"]
    print(f"estimated {found.memory_bytes:,}, taken {peak:,}")
    assert found.memory_bytes / 1.6 < peak < found.memory_bytes * 1.2, (found.memory_bytes, peak)
    taken = sum(path.stat().st_size for path in (paths.runs_dir() / "try").rglob("*") if path.is_file())
    assert found.disk_bytes / 2 < taken < found.disk_bytes, "the one being written is gone at the end"
