"""A training run stops anywhere and goes on as if nothing had happened; it learns to use what it reads."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_set import M, checkpoint, config, lines, make_training_set, same

from indexing import paths
from indexing.errors import CheckpointError, ConfigError, InputError, TrainingError
from indexing.neighbours import Neighbours
from indexing.tokenizer import Tokenizer
from retro_core import training
from retro_core.config import GenerationConfig, RetroConfig, TrainConfig
from retro_core.dataset import RetroDataset, TrainingBatches
from retro_core.evaluation.windows import probe, window_losses
from retro_core.generation import generate
from retro_core.model import PositionBias, Retro, RMSNorm
from retro_core.monitoring import Evaluated, Log, Saved, Started, StepDone
from retro_core.presets import resolve_model
from retro_core.run_folder import METRICS_FILE, SAMPLES_FILE, checkpoints, read_status, sample_path
from retro_core.schedule import copy_share, learning_rate
from retro_core.trace import Trace
from retro_core.training import load_run, parameter_groups


@pytest.fixture(scope="module")
def material(tmp_path_factory, tokenizer) -> dict[str, str]:
    return make_training_set(tmp_path_factory.mktemp("material"), tokenizer)


def test_events_and_log_say_what_happened(material):
    events = list(training.train(config(material, samples=1, evaluate_every=4, save_every=3)))
    kinds = [(type(event).__name__, event.step) for event in events]
    assert kinds == [
        ("Started", 0), ("StepDone", 1), ("StepDone", 2), ("StepDone", 3), ("Saved", 3), ("StepDone", 4),
        ("Evaluated", 4), ("Sampled", 4), ("Saved", 4), ("StepDone", 5), ("StepDone", 6), ("Saved", 6),
        ("StepDone", 7), ("Evaluated", 7), ("Sampled", 7), ("Saved", 7),
    ], "the best is saved whenever it is found"  # fmt: skip
    logged = [event for event in events if isinstance(event, StepDone | Evaluated)]
    assert [line["event"] for line in lines("try")] == [type(event).__name__ for event in logged]
    for line, event in zip(lines("try"), logged, strict=True):
        told = json.loads(json.dumps({**dataclasses.asdict(event), "event": type(event).__name__}))
        assert line.items() <= told.items()
    for event in logged:
        if isinstance(event, Evaluated):
            assert list(event.write_strength_by_layer) == [1] and event.write_strength > 0
            assert sum(event.write_strength_by_layer.values()) == pytest.approx(event.write_strength)

    first = events[1]
    model = RetroConfig.from_json(Path(material["model"]))
    batch = TrainingBatches(RetroDataset(Path(material["data_spec"]), model, 2, 4 * M), 2, 0).batch(0, 0.5)
    assert first.tokens == (batch.labels != -100).sum() and first.loss == pytest.approx(np.log(400), abs=0.3)
    assert first.learning_rate == pytest.approx(0.5e-3) and first.gradient_norm > 0
    assert first.mfu > 0 and first.seconds_left > 0
    folder = paths.runs_dir() / "try"
    best = min((event.on, event.step) for event in events if isinstance(event, Evaluated))[1]
    assert [saved.step for saved in checkpoints(folder)] == sorted({best, 6, 7}), "the last two and the best"
    assert {path.name for path in checkpoints(folder)[-1].path.iterdir()} == {
        "model.safetensors", "optimizer.pt", "state.json"
    }  # fmt: skip
    status = read_status(folder)
    assert (status.state, status.step, status.steps) == ("finished", 7, 7)

    model, settings, step, tokens = load_run("try")
    assert settings == config(material, samples=1, evaluate_every=4, save_every=3)
    assert (step, tokens) == (7, logged[-2].tokens) and not model.training
    again = list(training.train(config(material)))
    assert [type(event) for event in again] == [Started] and again[0].step == 7, "nothing is left to do"
    assert len(lines("try")) == len(logged)


def test_samples_are_what_the_model_writes(material, tokenizer):
    """The same prompts each time, with their neighbours and without; and how much the true text was expected,
    counted without a cache."""
    list(training.train(config(material, samples=2, steps=3)))
    shown = [json.loads(line) for line in (paths.runs_dir() / "try" / SAMPLES_FILE).open()]
    assert [line["step"] for line in shown] == [3, 3] and shown[0]["prompt"] != shown[1]["prompt"]
    model = load_run("try")[0]
    data = RetroDataset(Path(material["validation"]), model.config, 2, 4 * M)
    windows = [w for w in data.windows if w.stop - w.start > 1]
    for line, window in zip(shown, (windows[0], windows[len(windows) // 2]), strict=True):
        text = data.tokens(window)
        assert line["prompt"] == tokenizer.decode(text[:M])
        assert line["original"] == tokenizer.decode(text[M : 2 * M])
        ids = data.neighbour_ids(window)[:1]
        read = torch.from_numpy(data.retrieved_tokens(ids))[None]
        found = Neighbours(ids, np.zeros(ids.shape, np.float32), read[0].numpy(), data.pad_id)
        for name, neighbours, given in (("on", read, [found]), ("off", None, [])):
            wanted = GenerationConfig(max_new_tokens=M)
            *_, end = generate(model, tokenizer, text[:M].tolist(), None, wanted, found=given)
            assert line[name] == tokenizer.decode(np.array(end.tokens[M:], dtype=np.int64))
            whole = torch.from_numpy(text[: 2 * M])
            with torch.no_grad():
                logits = model(whole[None, :-1], neighbours).logits[0]
            expected = logits.log_softmax(-1)[torch.arange(M - 1, 2 * M - 1), whole[M:]]
            assert line[f"lp_{name}"] == pytest.approx(expected.tolist(), abs=1e-3)
        assert "".join(line["tokens"]) == line["original"] and len(line["read"]) == 2
        path = sample_path(paths.runs_dir() / "try", 3, line["number"])
        trace = Trace.from_json(json.loads(gzip.decompress(path.read_bytes()))).data
        assert [token["id"] for token in trace["tokens"]] == text[: 2 * M].tolist()
        for name in ("lp_on", "lp_off"):
            told = [token[name] for token in trace["tokens"][M:]]
            assert told == pytest.approx(line[name], abs=1e-3)
        (chunk,) = trace["chunks"]
        assert chunk["read"] == [M, 2 * M] and chunk["attention"]["rows"] == M
        assert all(card["influence"] and card["title"].startswith("chunk ") for card in chunk["neighbours"])
    list(training.train(config(material, samples=2, steps=6)))
    kept = paths.runs_dir() / "try" / "samples"
    assert len(list(kept.iterdir())) == 4
    Log(kept.parent, 5, tensorboard=False)
    assert {path.name[:12] for path in kept.iterdir()} == {"step-0000003"}, "as it goes on from step 5"


@pytest.mark.parametrize("stop_at", [1, 4, 9])
def test_a_run_that_was_stopped_ends_with_the_same_bits(material, stop_at):
    list(training.train(config(material, run="whole")))
    running = training.train(config(material, run="parts"))
    for _ in range(stop_at):
        next(running)
    running.close()
    torch.manual_seed(99)  # what others draw in between changes nothing
    list(training.train(config(material, run="parts")))
    assert same(checkpoint("whole"), checkpoint("parts"))
    assert lines("whole") == lines("parts"), "no step is logged twice"


def test_a_log_line_that_was_cut_off_is_written_anew(material):
    running = training.train(config(material, run="cut"))
    while not isinstance(next(running), Saved):
        pass
    running.close()
    path = paths.runs_dir() / "cut" / METRICS_FILE
    path.write_text(path.read_text() + '{"event": "StepDone", "ti')
    list(training.train(config(material, run="cut")))
    assert [line["step"] for line in lines("cut") if line["event"] == "StepDone"] == list(range(1, 8))


def test_other_settings_are_refused_and_lose_nothing(material, tmp_path):
    list(training.train(config(material)))
    before = checkpoint("try")
    for changes, sentence in [
        ({"learning_rate": 0.1}, "was started with learning_rate = 0.001, now it is 0.1"),
        ({"seed": 1}, "was started with seed = 0, now it is 1"),
        ({"num_neighbours": 1}, "was started with num_neighbours = 2, now it is 1"),
    ]:
        with pytest.raises(ConfigError, match=f"Run 'try' {sentence}"):
            next(training.train(config(material, **changes)))
    # The same file now says something else.
    description = Path(material["model"]).read_text()
    try:
        Path(material["model"]).write_text(description.replace('"dec_ffn_dim": 32', '"dec_ffn_dim": 16'))
        with pytest.raises(ConfigError, match="was started with dec_ffn_dim = 32, now it is 16"):
            next(training.train(config(material)))
    finally:
        Path(material["model"]).write_text(description)
    assert same(checkpoint("try"), before) and load_run("try")[1] == config(material)
    longer = config(material, steps=8, log_every=5, save_every=100, validation="")
    assert [type(e) for e in training.train(longer)] == [Started, StepDone, Saved], "these may change"


def test_what_does_not_fit_is_told_before_the_first_step(material, tmp_path):
    for changes, error, sentence in [
        ({"data_spec": ""}, InputError, "Expected a training set, got none"),
        ({"data_spec": "nowhere.json"}, InputError, "Cannot read the spec .*nowhere.json"),
        ({"tokenizer": str(tmp_path)}, CheckpointError, "Expected a tokenizer at"),
        ({"tokenizer": "absent"}, CheckpointError, "There is no model at .*absent. Give the name"),
        ({"model": "huge"}, ConfigError, "'huge' is neither a preset .* nor a file"),
        ({"model": "toy"}, InputError, "chunk_size is 64, but .* has chunks of 8 tokens"),
        ({"max_len": 4 * M + 1}, InputError, "multiple of the chunk size 8"),
        ({"run": "../x"}, InputError, "cannot be used as a name"),
    ]:
        with pytest.raises(error, match=sentence):
            next(training.train(config(material, **changes)))
    odd = tmp_path / "model.json"
    for text, sentence in [
        (Path(material["model"]).read_text().replace(": 400", ": 300"), "has 400 tokens, but num_embeddings"),
        (Path(material["model"]).read_text().replace("{", '{"pad_token_idx": 3, '), "but pad_token_idx in"),
    ]:
        odd.write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            next(training.train(config(material, model=str(odd))))
    assert not (paths.runs_dir() / "try").exists()
    with pytest.raises(CheckpointError, match="Run 'try' has no checkpoint"):
        load_run("try")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_numbers_that_are_none_stop_the_run_and_keep_what_was_saved(material, monkeypatch, where):
    list(training.train(config(material, steps=4)))
    saved = checkpoint("try")
    forward = Retro.forward

    def poisoned(self, *arguments, **options):
        out = forward(self, *arguments, **options)
        if out.loss is not None and self.training:
            weight = self.base.dec_embs.weight
            out.loss = out.loss * float("nan") if where == "loss" else out.loss + (0 * weight).sum().sqrt()
        return out

    monkeypatch.setattr(Retro, "forward", poisoned)
    with pytest.raises(
        TrainingError, match="Step 5 of run 'try' .* expected finite numbers.* lower learning_rate"
    ):
        list(training.train(config(material, save_every=1)))
    assert same(checkpoint("try"), saved)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(material):
    list(training.train(config(material, run="whole")))
    list(training.train(config(material, steps=6)))
    folder = paths.runs_dir() / "try"
    assert {4, 6} <= {saved.step for saved in checkpoints(folder)}
    weights = checkpoints(folder)[-1].path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=f"{weights} is damaged: its sha256 .* Delete that folder"):
        load_run("try")
    fell, started, *_ = list(training.train(config(material)))
    assert (fell.step, fell.path) == (4, weights.parent) and str(weights) in fell.reason
    assert started.step == 4 and [saved.step for saved in checkpoints(folder)][-2:] == [6, 7]
    assert same(checkpoint("try"), checkpoint("whole")), "and it ends as if nothing had happened"

    for saved in checkpoints(folder):
        (saved.path / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match="step-0000007/optimizer.pt is missing.* No other checkpoint"):
        list(training.train(config(material, steps=9)))
    assert read_status(folder).state == "failed" and "is missing" in read_status(folder).message


@pytest.mark.parametrize("seed", [0, 1])
def test_a_new_model_copies_already(material, seed):
    """Where embeddings are shared, CCA begins as an induction head (`start_copying`)."""
    torch.manual_seed(seed)
    model = Retro(RetroConfig.from_json(Path(material["model"]))).eval()
    data = RetroDataset(Path(material["validation"]), model.config, 2, 4 * M)
    found = probe(window_losses(model, data))
    assert found.on < found.off - 0.1 and found.on < found.random - 0.1
    assert found.off == pytest.approx(np.log(400), abs=0.1), "everything else starts knowing nothing"


def test_training_teaches_to_copy(material):
    changes = {"num_neighbours": 1, "batch_size": 10, "learning_rate": 3e-3, "copy_share": 0.0}
    events = list(training.train(config(material, steps=90, evaluate_every=45, save_every=90, **changes)))
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    early, late = (event for event in events if isinstance(event, Evaluated))
    assert np.mean(losses[-5:]) < losses[0] - 0.7 and late.on < early.on - 0.3
    assert late.on < late.off - 0.7 and late.on < late.random - 0.7, "and only from what it reads"


def test_schedules():
    settings = TrainConfig(
        learning_rate=1.0, warmup=4, steps=100, decay_share=0.2, final_rate=0.1, copy_share=0.8, copy_steps=10
    )
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0] and rates[80] == 1.0
    assert rates[90] == pytest.approx(0.55) and rates[99] == pytest.approx(0.1 + 0.9 / 20)
    cosine = [learning_rate(step, dataclasses.replace(settings, schedule="cosine")) for step in range(100)]
    assert cosine[:81] == rates[:81] and cosine[90] == pytest.approx(0.55) and cosine[85] > rates[85]
    assert cosine[95] < rates[95] and min(cosine) > 0.1, "the floor"
    still = dataclasses.replace(settings, schedule="constant")
    assert [learning_rate(step, still) for step in (0, 3, 80, 99)] == [0.25, 1.0, 1.0, 1.0]
    longer = dataclasses.replace(settings, steps=200)
    assert rates[:81] == [learning_rate(step, longer) for step in range(81)], "a run may be made longer"
    assert [copy_share(step, settings) for step in (0, 5, 10, 11)] == [0.8, 0.4, 0.0, 0.0]


def test_every_parameter_is_in_one_group_and_the_right_ones_decay(material):
    settings = config(material)
    model = Retro(resolve_model(settings.model, Tokenizer.load(settings.tokenizer)))
    groups = parameter_groups(model, settings)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted({id(p) for p in model.parameters()})
    still = {
        id(p) for module in model.modules() if isinstance(module, (RMSNorm, PositionBias, torch.nn.Embedding))
        for p in module.parameters()
    }  # fmt: skip
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.0 if id(parameter) in still else settings.weight_decay)
