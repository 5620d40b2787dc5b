"""A model is trained further: what it learns beside what it knew, and what stays as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax
from training_set import M, checkpoint, config, make_training_set, same

from indexing import paths
from indexing.errors import CheckpointError, ConfigError, InputError
from retro_core import estimates
from retro_core.checkpoint import load_model, save_model
from retro_core.config import RetroConfig, TrainConfig
from retro_core.dataset import RetroDataset, TrainingBatches
from retro_core.evaluation.windows import window_losses
from retro_core.model import Retro
from retro_core.training import load_run, train


@pytest.fixture
def material(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("RETRO_HOME", str(tmp_path / "home"))
    return make_training_set(tmp_path, tokenizer)


@pytest.fixture
def known(material, tokenizer):
    """A model of ours, by its name."""
    torch.manual_seed(3)
    model = Retro(RetroConfig.from_json(Path(material["model"])))
    with torch.no_grad():
        for weight in model.parameters():  # a fresh one writes nothing but what it copies
            weight += 0.05 * torch.randn_like(weight)
    save_model(paths.models_dir() / "known", model, tokenizer)
    return "known"


def held_out(material, model) -> RetroDataset:
    return RetroDataset(Path(material["validation"]), model.config, 2, 4 * M, 1)


def some(data: RetroDataset):
    batch = data.collate([window for window in data.windows if window.stop - window.start > 1][:3])
    return batch.input_ids, batch.labels, batch.neighbour_ids


def test_step_0_is_the_model_and_its_tokenizer_and_sizes_are_its_own(material, known, tokenizer):
    before = load_model(known).model
    losses = window_losses(before, held_out(material, before), limit=4, seed=0)
    mean = sum(w.on for w in losses) / sum(w.tokens for w in losses)
    further = config(
        {**material, "model": "small", "tokenizer": "nothing"}, weights=known, learning_rate=0.0,
        steps=1, evaluate_every=1, weight_decay=0.0,
    )  # fmt: skip
    events = list(train(further))
    assert [event.on for event in events if hasattr(event, "on")] == [pytest.approx(mean, abs=1e-6)]
    trained, *_ = load_run("try")
    assert trained.config == before.config
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("mode, own_embeddings", [("paper", False), ("paper", True), ("reference", True)])
def test_reading_only_keeps_what_is_written_without_neighbours(material, tokenizer, mode, own_embeddings):
    sizes = RetroConfig.from_json(Path(material["model"])).to_dict()
    torch.manual_seed(5)
    changes = {"mode": mode, "enc_share_decoder_embs": not own_embeddings}
    if mode == "reference":
        changes |= {"tie_embeddings": False}
    model = Retro(RetroConfig(**{**sizes, **changes}))
    save_model(paths.models_dir() / "mine", model, tokenizer)
    before = load_model("mine").model
    asked = config(material, weights="mine", reading_only=True, learning_rate=0.01, ignore_share=0.3)
    list(train(asked))
    after, *_ = load_run("try")
    ids, _, read = some(held_out(material, after))
    with torch.no_grad():
        assert torch.equal(after(ids).logits, before(ids).logits)
        assert not torch.allclose(after(ids, read).logits, before(ids, read).logits, atol=1e-3)
    learnt = {
        name
        for (name, one), other in zip(after.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(one, other)
    }
    expected = {n for n, _ in before.named_parameters() if ".encoder." in n or ".decoder.1.1." in n}
    assert learnt == (expected if own_embeddings else expected - {"base.encoder.enc_embs.weight"})
    assert estimates.estimate(asked).trained == sum(
        p.numel() for n, p in after.named_parameters() if n in learnt
    )


@pytest.mark.parametrize("stop_at", [1, 4])
def test_stopped_and_resumed_it_ends_with_the_same_bits(material, known, stop_at):
    settings = {"weights": known, "ignore_share": 0.5, "accumulate_grad_batches": 2}
    list(train(config(material, **settings)))
    running = train(config(material, run="again", **settings))
    for _ in range(stop_at):
        next(running)
    running.close()
    list(train(config(material, run="again", **settings)))
    assert same(checkpoint("try"), checkpoint("again"))


def test_a_batch_to_ignore_reads_strangers_throughout(material):
    data = RetroDataset(
        Path(material["data_spec"]), RetroConfig.from_json(Path(material["model"])), 2, 4 * M, 1
    )
    batches = TrainingBatches(data, 3, 11)
    made = [batches.batch(step, copies=0.5, ignoring=0.25) for step in range(200)]
    assert 30 <= sum(batch.ignoring for batch in made) <= 70
    own = own_ignored = chunks = chunks_ignored = 0
    for batch in made:
        # Of a chunk's two neighbours one is itself, and goes on with what follows.
        asking = batch.input_ids.unflatten(1, (-1, M))
        found = (batch.neighbour_ids[..., 0, :M] == asking).all(-1) & (asking != data.pad_id).all(-1)
        if batch.ignoring:
            own_ignored, chunks_ignored = own_ignored + int(found.sum()), chunks_ignored + found.numel()
        else:
            own, chunks = own + int(found.sum()), chunks + found.numel()
    assert own / chunks > 0.4 and own_ignored / chunks_ignored < 0.01
    as_before = TrainingBatches(data, 3, 11).batch(2, copies=0.5)
    assert not as_before.ignoring
    assert all(not TrainingBatches(data, 3, 11).batch(step, strangers=1.0).ignoring for step in range(5))


def test_the_loss_of_probabilities_is_their_cross_entropy(material, known):
    model = load_model(known).model.double()
    ids, labels, read = some(held_out(material, model))
    dice = np.random.default_rng(7)
    likely = torch.from_numpy(dice.dirichlet(np.ones(model.config.num_embeddings), ids.shape))
    likely = likely * (labels != -100)[..., None]
    out = model(ids, read, likely)
    there = labels != -100
    expected = -(likely[there] * log_softmax(model(ids, read).logits[there], dim=-1)).sum(-1)
    assert torch.allclose(out.loss, expected.mean(), atol=1e-12)
    assert torch.allclose(model(ids, read, likely, logits_to_keep=None).loss, out.loss, atol=1e-12)
    each = model(ids, read, likely, loss_reduction="none").loss
    assert torch.allclose(each[there], expected, atol=1e-12) and not each[~there].any()
    certain = torch.nn.functional.one_hot(labels.clamp(min=0), likely.shape[-1]) * there[..., None]
    assert torch.allclose(model(ids, read, certain.double()).loss, model(ids, read, labels).loss, atol=1e-12)
    with pytest.raises(InputError, match=r"Expected labels of probabilities to have the shape .*, got .*"):
        model(ids, read, likely[..., :-1])


def test_ignoring_is_learnt(material, known):
    """Strangers move what is likely away from what it is without neighbours, and less so afterwards."""

    def moved(model) -> float:
        data = held_out(material, model)
        ids, labels, read = some(data)
        read = read[torch.arange(len(read)).roll(1)]  # what another text reads
        with torch.no_grad():
            off, on = (log_softmax(model(ids, r).logits, dim=-1) for r in (None, read))
        return float((off.exp() * (off - on)).sum(-1)[labels != -100].mean())

    before = load_model(known).model
    list(
        train(
            config(
                material, weights=known, reading_only=True, ignore_share=1.0, copy_share=0.0, steps=60,
                learning_rate=3e-3, evaluate_every=60, save_every=60,
            )
        )
    )  # fmt: skip
    after, *_ = load_run("try")
    assert moved(before) > 1e-3
    assert moved(after) < 0.5 * moved(before)


def test_what_excludes_each_other_is_told(material, known, tmp_path, tokenizer):
    with pytest.raises(ConfigError, match=r"Expected a model to train further or a base to fit, got both"):
        TrainConfig(weights="known", base="smollm2-135m")
    with pytest.raises(ConfigError, match=r"reading_only keeps what a trained model writes .* Name a model"):
        TrainConfig(reading_only=True)
    with pytest.raises(CheckpointError, match=r"There is no model at .*nobody"):
        list(train(config(material, weights="nobody")))
    (paths.models_dir() / "fit").mkdir()
    (paths.models_dir() / "fit" / "config.json").write_text('{"retro": {}}')
    sizes = {**RetroConfig.from_json(Path(material["model"])).to_dict(), "dec_cca_layers": []}
    save_model(paths.models_dir() / "plain", Retro(RetroConfig(**sizes)), tokenizer)
    with pytest.raises(ConfigError, match=r"'plain' has no CCA. Leave reading_only out, or name"):
        list(train(config(material, weights="plain", reading_only=True)))
    with pytest.raises(ConfigError, match=r"Model 'fit' is a RETRO-fit of a base; .* Resume the run"):
        list(train(config(material, weights="fit")))
