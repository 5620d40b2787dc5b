"""The reference's own number, made as it makes it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from fakes import HashingEmbedder
from safetensors.torch import save_file
from tiny_models import M, tiny_config, tiny_model

from indexing.build import build
from indexing.corpus import Document
from indexing.errors import InputError
from indexing.files import write_json
from indexing.pipeline.examples import Examples
from indexing.pipeline.specs import write_data_spec, write_index_spec
from indexing.precompute import precompute_neighbours
from retro_core.checkpoint import load_reference
from retro_core.cli import main
from retro_core.evaluation.reference import ReferenceLosses, reference_losses

K = 2
GOLDEN = Path(os.environ.get("RETRO_PIPELINE_FIXTURES", "absent"))
TEXTS = [*SENTENCES, "", "Nile"]


@pytest.fixture(scope="module")
def spec(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    documents = [Document(f"d{i}", f"d{i}", text, "test") for i, text in enumerate(TEXTS)]
    list(build(folder / "texts", documents, tokenizer, HashingEmbedder(), chunk_size=M))
    list(precompute_neighbours([folder / "texts"], [folder / "texts"], K + 1, folder / "data"))
    return folder / "data" / "data.spec.json"


@torch.no_grad()
def plain_sums(model, examples: Examples, max_len: int) -> tuple[float, int]:
    """One document at a time, one token at a time, cut at max_len."""
    nats, tokens = 0.0, 0
    for number in range(len(examples)):
        example = examples[number]
        text = [token for token in example.input_ids.tolist() if token != 0][:max_len]
        read = torch.from_numpy(example.neighbour_ids.astype(np.int64))[None, : len(text) // M]
        logits = model(torch.tensor([text]), read if read.shape[1] else None).logits[0].log_softmax(-1)
        for place in range(len(text) - 1):
            nats -= float(logits[place, text[place + 1]])
            tokens += 1
    return nats, tokens


@pytest.mark.parametrize(("max_len", "k", "continuations"), [(None, K, 1), (4 * M, None, 2)])
def test_mean_over_all_labels_of_documents_that_are_cut(spec, tokenizer, max_len, k, continuations):
    model = tiny_model("reference", num_embeddings=tokenizer.vocab_size)
    examples = Examples(spec, 0, k, continuations, max_len)
    nats, tokens = plain_sums(model, examples, max_len or 10**6)
    for batch_size in (3, 100):
        *_, found = reference_losses(model, examples, batch_size)
        assert (found.tokens, found.done, found.total) == (tokens, len(TEXTS), len(TEXTS))
        assert found.nats == pytest.approx(nats, rel=1e-9) and found.mean == pytest.approx(nats / tokens)
    *_, ahead = reference_losses(model, examples, 3, num_workers=2)
    assert ahead.nats == pytest.approx(nats, rel=1e-9)
    parts = [list(reference_losses(model, examples, 2, part=(i, 3)))[-1] for i in range(3)]
    assert sum(p.nats for p in parts) == pytest.approx(nats) and sum(p.tokens for p in parts) == tokens


def test_what_it_cannot_do(spec, tokenizer):
    model = tiny_model("reference", num_embeddings=tokenizer.vocab_size, chunk_size=M + 1)
    with pytest.raises(InputError, match="chunk_size is 4, but the data set has chunks of 3"):
        list(reference_losses(model, Examples(spec, 0), 2))
    with pytest.raises(InputError, match="a batch of at least 1 document, got 0"):
        list(reference_losses(tiny_model("reference"), Examples(spec, 0), 0))
    strange = Examples(spec, 0)
    strange.neighbours = [np.asarray(rows) + 1000 for rows in strange.neighbours]
    with pytest.raises(InputError, match=r"numbered 999 to \d+, but the index has \d+ chunks. Retrieve"):
        list(reference_losses(tiny_model("reference"), strange, 2, num_workers=1))
    with pytest.raises(InputError, match="no token to predict"):
        assert ReferenceLosses(3, 3, 0.0, 0).mean


def test_the_command_has_the_references_arguments(spec, tokenizer, tmp_path, capsys):
    config = tiny_config("reference", num_embeddings=tokenizer.vocab_size)
    model = tiny_model("reference", num_embeddings=tokenizer.vocab_size).float()
    settings = {key: value for key, value in config.to_dict().items() if key != "mode"}
    write_json(tmp_path / "retro.json", settings)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "epoch=0.ckpt")
    line = [
        "evaluate-reference", "--test-dataset-spec", str(spec), str(spec), "--checkpoint",
        str(tmp_path / "epoch=0.ckpt"), "--retro-config", str(tmp_path / "retro.json"), "--batch-size", "3",
        "--num-neighbours", "2", "--num-continuation-chunks", "1", "--max-len", str(4 * M),
        "--num-workers", "0",
    ]  # fmt: skip
    assert main(line) == 0
    lines = capsys.readouterr().out.splitlines()
    *_, found = reference_losses(model, Examples(spec, 0, 2, 1, 4 * M), 3)
    expected = f"{spec}: test_loss {found.mean:.5f}, {found.tokens:,} tokens, {len(TEXTS)} documents"
    assert lines == [expected, expected]
    # A checkpoint that lacks weights is refused: the reference takes it, and computes with random ones.
    del weights["base.decoder.1.1.q_proj.weight"]
    save_file(weights, tmp_path / "part.safetensors")
    line[line.index("--checkpoint") + 1] = str(tmp_path / "part.safetensors")
    assert main(line) == 2 and "lacks base.decoder.1.1.q_proj.weight" in capsys.readouterr().err
    assert main([*line, "--gpus-per-node", "0"]) == 2
    assert "Expected --gpus-per-node of 1 or more" in capsys.readouterr().err


# What the unmodified reference (6945cdd) gives for the shards a, b and both together with the weights below.
REFERENCE = {"a": 10.833054743, "b": 10.746394742, "ab": 10.789636971}


def seeded_weights(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """The same numbers for the same names and shapes, whatever the library."""
    weights = {}
    for number, name in enumerate(sorted(shapes)):
        noise = np.random.Generator(np.random.PCG64([29, number])).standard_normal(shapes[name], np.float32)
        scale = 1.0 if name.endswith("_embs.weight") or len(noise.shape) < 2 else noise.shape[-1] ** -0.5
        weights[name] = torch.from_numpy(1 + 0.1 * noise if noise.ndim == 1 else scale * noise)
    return weights


@pytest.mark.slow
@pytest.mark.skipif(not (GOLDEN / "shards").is_dir(), reason="RETRO_PIPELINE_FIXTURES is not set")
def test_the_references_numbers(tmp_path):
    config = GOLDEN / "mini.config.json"
    from retro_core.checkpoint import hollow_model
    from retro_core.config import RetroConfig

    shapes = {k: v.shape for k, v in hollow_model(RetroConfig.from_json(config)).state_dict().items()}
    save_file(seeded_weights(shapes), tmp_path / "mini.safetensors")
    model = load_reference(tmp_path / "mini.safetensors", config)
    names = ("chunks", "seq2chunk", "chunk2seq", "neighbours")
    index = {name: GOLDEN / f"{name}.npy" for name in names[:3]}
    write_index_spec(tmp_path / "index.spec.json", [index | {"embeddings": GOLDEN / "chunks.embeddings.npy"}])
    for which, expected in REFERENCE.items():
        shards = [{name: GOLDEN / "shards" / f"{letter}.{name}.npy" for name in names} for letter in which]
        write_data_spec(tmp_path / f"{which}.json", shards, tmp_path / "index.spec.json")
        *_, found = reference_losses(model, Examples(tmp_path / f"{which}.json", 0, 2, 1, 128), 4)
        assert found.mean == pytest.approx(expected, rel=1e-6)
