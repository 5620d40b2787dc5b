"""Our reference mode gives the reference implementation's numbers, and verify-reference sees it if not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_input

from retro_core.cli import main
from retro_core.config import RetroConfig
from retro_core.model import Capture, Retro
from retro_core.verify import compare, verify_reference

REFERENCE = Path(__file__).parent / "data" / "reference"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the `tiny` fixture that may be damaged."""
    return Path(shutil.copytree(REFERENCE / "tiny", tmp_path / "tiny"))


def edit(path: Path, key: str, change) -> None:
    tensors = load_file(path)
    tensors[key] = change(tensors[key].clone()).contiguous()
    save_file(tensors, path)


@pytest.mark.parametrize(
    "name, at_least",
    [("tiny", 314), ("tiny_shared_embs", 34), ("tiny_no_cca", 23), ("odd", 120), ("buckets", 40)],
)
def test_every_number_of_the_reference_comes_out_again(name, at_least):
    rows = list(verify_reference(REFERENCE / name))
    assert [row for row in rows if not row.ok] == []
    assert sum(row.checked for row in rows) >= at_least
    # What the reference computes wrongly is the only thing that is left out.
    assert {row.tensor for row in rows if not row.checked} <= {"logits_seed_bug_all_hidden"}


def test_tiny_covers_every_kind_of_number():
    checked = {(row.case, row.tensor) for row in verify_reference(REFERENCE / "tiny") if row.checked}
    for wanted in [
        ("padded", "logits"), ("padded", "loss_mean"), ("masks", "loss_none"), ("n19", "hidden.4"),
        ("n3", "neighbour_hidden"), ("padded", "neighbour_hidden.2"), ("n1", "final_hidden"),
        ("grads.padded", "lm_head.weight"), ("train5_padded", "losses"), ("train5_padded", "grad_norms"),
        ("train5_padded", "base.dec_embs.weight"), ("generation", "one.greedy"),
        ("generation", "long.greedy_plain"), ("generation", "batch2.greedy"),
        ("lightning.ckpt", "lm_head.weight"), ("meta.json", "weights_sha256"),
    ]:  # fmt: skip
        assert wanted in checked


def test_the_command_prints_each_tensor_and_exits_0(capsys):
    assert main(["verify-reference", str(REFERENCE / "tiny_shared_embs")]) == 0
    out = capsys.readouterr().out
    assert "masks  neighbour_hidden" in out
    assert "n11  logits_seed_bug_all_hidden  (not checked: a defect of the reference" in out
    assert "34 of 34 tensors agree" in out


@pytest.mark.parametrize(
    "file, key, size, seen",
    [
        ("model", "base.decoder.3.1.multi_head_attention.final_proj.weight", 0.01, "n19  logits"),
        ("n8.out", "neighbour_hidden", 1e-3, "n8  neighbour_hidden"),
        ("grads.padded", "base.encoder.enc_embs.weight", 1e-3, "grads.padded  base.encoder.enc_embs.weight"),
        ("after5steps", "base.final_layer_norm.scale", 1e-3, "train5_padded  base.final_layer_norm.scale"),
    ],
)
def test_one_number_a_little_off_makes_it_exit_1(tiny, capsys, file, key, size, seen):
    def change(tensor):
        tensor.view(-1)[5] += size
        return tensor

    edit(tiny / f"{file}.safetensors", key, change)
    assert main(["verify-reference", str(tiny)]) == 1
    beyond = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BEYOND")]
    assert any(seen in line and "beyond the tolerance" in line for line in beyond)


def test_a_wrong_token_a_wrong_loss_and_a_wrong_shape_are_seen(tiny, capsys):
    edit(tiny / "generation.safetensors", "exact.greedy", lambda ids: ids.index_fill(1, torch.tensor([7]), 3))
    edit(tiny / "n20.out.safetensors", "loss_none", lambda loss: loss[:, :-1])
    meta = json.loads((tiny / "meta.json").read_text())
    meta["train5_padded"]["losses"][4] += 0.01
    (tiny / "meta.json").write_text(json.dumps(meta))
    assert {(r.case, r.tensor) for r in verify_reference(tiny) if not r.ok} == {
        ("generation", "exact.greedy"), ("n20", "loss_none"), ("train5_padded", "losses"),
    }  # fmt: skip


def test_a_checkpoint_with_other_weights_is_seen(tiny):
    state = torch.load(tiny / "lightning.ckpt", weights_only=True)
    state["state_dict"]["lm_head.weight"][0, 0] += 1e-6
    torch.save(state, tiny / "lightning.ckpt")
    wrong = [row for row in verify_reference(tiny) if not row.ok]
    assert [(row.case, row.tensor) for row in wrong] == [("lightning.ckpt", "lm_head.weight")]


def test_tensors_it_does_not_know_are_reported(tiny):
    save_file({"speed": torch.ones(1)}, tiny / "extra.safetensors")
    tensors = load_file(tiny / "n4.out.safetensors")
    save_file({**tensors, "entropy": torch.ones(1)}, tiny / "n4.out.safetensors")
    (tiny / "n5.in.safetensors").unlink()
    rows = [(row.case, row.tensor, row.note) for row in verify_reference(tiny) if not row.checked]
    assert ("extra.safetensors", "speed", "not checked: unknown file") in rows
    assert ("n4", "entropy", "not checked: unknown tensor") in rows
    assert ("n5", "logits", "not checked: n5.in.safetensors gives no input_ids") in rows


def test_other_sizes_and_only_some_files(tmp_path):
    """Cases that differ in k, r and l, without labels, and a Lightning checkpoint as the only weights."""
    config = RetroConfig(mode="reference", num_embeddings=23, chunk_size=5, enc_hidden_dim=9, enc_ffn_dim=7,
                         enc_num_heads=3, enc_qkv_dim=6, dec_hidden_dim=11, dec_ffn_dim=13, dec_num_heads=1,
                         dec_qkv_dim=7, dec_num_layers=3, dec_cca_layers=[0, 2])  # fmt: skip
    values = config.to_dict()
    del values["mode"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    model = Retro(config).eval()
    torch.save({"epoch": 0, "state_dict": model.state_dict()}, tmp_path / "last.ckpt")
    for name, n, chunks, k, r in [("a", 7, 2, 1, 3), ("b", 10, 2, 4, 11), ("c", 13, 3, 2, 10)]:
        ids, _ = tiny_input(n)
        neighbours = torch.randint(0, 23, (1, chunks, k, r))
        out = model(ids, neighbours, capture=Capture(hidden_states=True))
        save_file({"input_ids": ids, "neighbour_ids": neighbours}, tmp_path / f"{name}.in.safetensors")
        last, encoded = out.hidden_states[3].detach(), out.neighbour_states[-1].detach()
        numbers = {"logits": out.logits.detach(), "hidden.3": last, "neighbour_hidden": encoded}
        save_file(numbers, tmp_path / f"{name}.out.safetensors")
    rows = list(verify_reference(tmp_path))
    assert all(row.ok and row.checked for row in rows)
    assert {row.case for row in rows} == {"a", "b", "c", "last.ckpt"}


@pytest.mark.parametrize("make, sentence", [
    (lambda folder: None, "There is no folder"),
    (lambda folder: folder.mkdir(), "has nothing to check"),
    (lambda folder: shutil.copytree(REFERENCE, folder), "Perhaps you mean a folder in it: buckets, odd,"),
    (lambda folder: shutil.copytree(REFERENCE / "tiny", folder) and (folder / "model.safetensors").unlink()
     or (folder / "lightning.ckpt").unlink(), "has neither model.safetensors nor"),
    (lambda folder: shutil.copytree(REFERENCE / "tiny", folder) and (folder / "config.json").unlink(),
     "Cannot read"),
])  # fmt: skip
def test_user_errors_are_one_sentence_and_exit_2(tmp_path, capsys, make, sentence):
    make(tmp_path / "f")
    assert main(["verify-reference", str(tmp_path / "f")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and sentence in captured.err and captured.err.count("\n") == 1


def test_comparing_nan_and_shapes():
    nan, one = torch.tensor([float("nan"), 1.0]), torch.tensor([1.0, 1.0])
    assert compare("c", "t", nan, nan).ok
    assert not compare("c", "t", one, nan).ok and not compare("c", "t", nan, one).ok
    assert compare("c", "t", torch.tensor([100.0]), torch.tensor([100.009])).ok
    assert not compare("c", "t", torch.tensor([100.0]), torch.tensor([100.011])).ok
    assert compare("c", "t", torch.ones(2), torch.ones(3)).note == "expected shape [2], got [3]"
