"""What must hold for any RETRO in paper mode, whatever its weights (float64, prime sizes)."""

import pytest
import torch
from tiny_models import K, M, R, tiny_config, tiny_input, tiny_model
from torch import Tensor

from indexing.errors import InputError
from retro_core.checkpoint import load_weights
from retro_core.model import Capture, Retro

ALL_LENGTHS = range(1, 3 * M + 3)


def logits(model: Retro, ids: Tensor, neighbours: Tensor | None = None, **more) -> Tensor:
    with torch.no_grad():
        return model(ids, neighbours, **more).logits


def assert_close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def model() -> Retro:
    return tiny_model()


def test_the_order_of_neighbours_does_not_matter(model):
    ids, neighbours = tiny_input(11, batch=2, k=3)
    swapped = neighbours.clone()
    swapped[:, 1] = neighbours[:, 1, [2, 0, 1]]
    assert not torch.equal(neighbours, swapped)
    assert_close(logits(model, ids, neighbours), logits(model, ids, swapped))


def test_the_order_of_chunks_does_matter(model):
    ids, neighbours = tiny_input(11)
    difference = (logits(model, ids, neighbours) - logits(model, ids, neighbours.flip(1))).abs()
    assert difference[:, M - 1 :].amax(dim=-1).min() > 1e-3


@pytest.mark.parametrize("k", [2, 5])
def test_the_same_neighbour_several_times_counts_once(model, k):
    ids, neighbours = tiny_input(11, k=1)
    assert_close(logits(model, ids, neighbours), logits(model, ids, neighbours.expand(-1, -1, k, -1)))


def test_a_missing_neighbour_is_not_there(model):
    ids, neighbours = tiny_input(11, k=3)
    neighbours[:, :, 2] = 0
    assert_close(logits(model, ids, neighbours), logits(model, ids, neighbours[:, :, :2]))


def test_padding_at_the_end_of_a_neighbour_is_not_there(model):
    ids, neighbours = tiny_input(11)
    longer = torch.nn.functional.pad(neighbours, (0, 4))
    assert_close(logits(model, ids, neighbours), logits(model, ids, longer))


@pytest.mark.parametrize("n", ALL_LENGTHS)
def test_without_any_neighbour_on_is_exactly_off(model, n):
    ids, neighbours = tiny_input(n, batch=2)
    off = logits(model, ids)
    assert torch.equal(off, logits(model, ids, torch.zeros_like(neighbours)))
    assert torch.equal(off, logits(model, ids, neighbours[:, :, :0]))  # k = 0
    if n >= M:
        assert not torch.equal(off, logits(model, ids, neighbours))


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_chunk_without_neighbours_writes_exactly_nothing(model, missing):
    ids, neighbours = tiny_input(11)
    neighbours[:, missing] = 0
    with torch.no_grad():
        out = model(ids, neighbours, capture=Capture(write_strength=True))
    read = torch.zeros(11, dtype=torch.bool)
    for u in range(11 // M):
        read[u * M + M - 1 : u * M + 2 * M - 1] = u != missing
    assert torch.equal(out.write_strength[:, 0] != 0, read.expand(2, -1))
    # Before the first position that reads something, the model is Off to the last bit.
    first = int(read.int().argmax())
    assert torch.equal(out.logits[:, :first], logits(model, ids)[:, :first])


def test_off_is_the_decoder_without_the_layers(model):
    config = model.config.to_dict() | {"dec_cca_layers": []}
    plain = Retro(type(model.config)(**config)).double().eval()
    kept = {name: tensor for name, tensor in model.state_dict().items() if name in plain.state_dict()}
    load_weights(plain, kept, "test")
    ids, neighbours = tiny_input(11)
    assert torch.equal(logits(plain, ids), logits(model, ids))
    assert torch.equal(logits(plain, ids, neighbours), logits(model, ids))
    assert len(kept) < len(model.state_dict())


@pytest.mark.parametrize("mode", ["paper", "reference"])
@pytest.mark.parametrize("n", ALL_LENGTHS)
def test_the_start_of_a_text_does_not_depend_on_how_it_goes_on(mode, n):
    """Also: an incomplete last chunk has no neighbours to read, given or not."""
    model = tiny_model(mode)
    ids, neighbours = tiny_input(3 * M + 2, batch=2)
    whole = logits(model, ids, neighbours)[:, :n]
    assert_close(logits(model, ids[:, :n], neighbours[:, : n // M]), whole)
    assert_close(logits(model, ids[:, :n], neighbours[:, : -(-n // M)]), whole)


@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_encoding_each_chunk_once_gives_the_same_text(mode):
    """As in generation: one more token each time, the encoded neighbours handed in again."""
    model = tiny_model(mode)
    ids, neighbours = tiny_input(3 * M + 2)
    encoded = None
    for n in ALL_LENGTHS:
        with torch.no_grad():
            out = model(ids[:, :n], neighbours[:, : n // M], encoded=encoded)
        encoded = out.encoded
        assert encoded is None or encoded.shape[1] == n // M
        assert_close(out.logits, logits(model, ids[:, :n], neighbours[:, : n // M]))


@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_rows_of_a_batch_do_not_see_each_other(mode):
    model = tiny_model(mode)
    ids, neighbours = tiny_input(10, batch=3)
    ids[1, 7:], neighbours[1, 1], neighbours[2, 0, 1, 5:] = 0, 0, 0
    together = logits(model, ids, neighbours)
    for row in range(3):
        assert_close(together[row : row + 1], logits(model, ids[row : row + 1], neighbours[row : row + 1]))


def test_a_chunk_of_padding_in_front_changes_nothing(model):
    """Short prompts are padded on the left: all positions are relative, and padding is never read."""
    ids, neighbours = tiny_input(8)
    padded = torch.cat([torch.zeros_like(ids[:, :M]), ids], dim=1)
    moved = torch.cat([torch.zeros_like(neighbours[:, :1]), neighbours], dim=1)
    assert_close(logits(model, padded, moved)[:, M:], logits(model, ids, neighbours))


def test_masks_hide_what_they_hide_and_default_to_padding(model):
    ids, neighbours = tiny_input(11)
    hidden, gone = neighbours.clone(), neighbours.clone()
    gone[:, 1, 0, 3:] = 0
    hidden[:, 1, 0, 3:] = 5  # some other token, hidden
    expected = logits(model, ids, gone)
    assert_close(logits(model, ids, hidden, neighbour_mask=gone != 0), expected)
    assert_close(logits(model, ids, gone, neighbour_mask=(gone != 0).float()), expected)
    assert_close(logits(model, ids, gone, input_mask=torch.ones_like(ids)), expected)


@pytest.mark.parametrize("chunk_size, r", [(1, 1), (1, 3), (5, 2), (7, 14)])
def test_any_chunk_size_and_neighbour_length(chunk_size, r):
    model = tiny_model(chunk_size=chunk_size)
    n = 2 * chunk_size + 1
    ids, _ = tiny_input(n)
    neighbours = torch.randint(1, 23, (1, n // chunk_size, K, r))
    on, off = logits(model, ids, neighbours), logits(model, ids)
    assert on.isfinite().all()
    assert torch.equal(on[:, : chunk_size - 1], off[:, : chunk_size - 1])
    assert (on - off)[:, chunk_size - 1 :].abs().amax(dim=-1).min() > 1e-6


def test_labels_give_the_loss_of_the_next_token(model):
    ids, neighbours = tiny_input(11, batch=2)
    labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    with torch.no_grad():
        mean = model(ids, neighbours, labels).loss
        each = model(ids, neighbours, labels, loss_reduction="none").loss
    scores = logits(model, ids, neighbours).log_softmax(dim=-1)
    by_hand = [-scores[b, t, labels[b, t]] for b in range(2) for t in range(10)]
    assert_close(mean, torch.stack(by_hand).mean())
    assert_close(each[:, :-1].flatten(), torch.stack(by_hand))
    assert torch.equal(each[:, -1], torch.zeros(2, dtype=torch.float64))


def test_position_tables_of_the_paper_mode_are_used_in_full():
    """With as many rows as there are distances, every row gets a gradient (m - r ... 2m - 2)."""
    distances = 2 * M - 2 - (M - R) + 1
    model = tiny_model(
        dec_cca_pos_bias_num_buckets=distances, enc_ca_pos_bias_num_buckets=M + R - 1,
        enc_sa_pos_bias_num_buckets=2 * R, dec_sa_pos_bias_num_buckets=11,
    )  # fmt: skip
    ids, neighbours = tiny_input(11)
    model(ids, neighbours).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        if name.endswith("relative_attention_bias.weight"):
            unused = (parameter.grad == 0).all(dim=1).sum()
            # An even bidirectional table has one row more on the right than there are distances.
            assert unused == (1 if "encoder" in name and ".0.multi" in name else 0), name


@pytest.mark.parametrize("ids, neighbours, words", [
    (torch.zeros(1, 0, dtype=torch.long), None, ["at least one token", "empty"]),
    (torch.tensor([[1, 2, 23]]), None, ["Token id 23", "vocabulary of 23"]),
    (torch.tensor([[1, -1, 5]]), None, ["Token id -1", "vocabulary of 23"]),
    (torch.ones(1, 7, dtype=torch.long), torch.ones(1, 4, K, R, dtype=torch.long),
     ["7 tokens have 2 complete chunks of 3", "neighbours for 4"]),
    (torch.ones(1, 7, dtype=torch.long), torch.full((1, 2, K, R), 99), ["Token id 99", "vocabulary of 23"]),
])  # fmt: skip
def test_input_that_cannot_be_used_is_refused_in_a_sentence(model, ids, neighbours, words):
    with pytest.raises(InputError) as error:
        model(ids, neighbours)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_sizes_of_the_models_that_the_reference_names():
    """Parameters and tensors of its default config and of its released model."""
    with torch.device("meta"):
        default = Retro(tiny_config().from_json({}))
        released = Retro(tiny_config().from_json({
            "num_embeddings": 32128, "enc_hidden_dim": 896, "enc_ffn_dim": 3584, "enc_num_heads": 14,
            "enc_qkv_dim": 896, "enc_ca_layers": [1], "dec_hidden_dim": 1536, "dec_num_layers": 12,
            "dec_ffn_dim": 6144, "dec_num_heads": 12, "dec_qkv_dim": 1536, "dec_cca_layers": [5, 8, 11],
            "dec_sa_pos_bias_num_buckets": 1024,
        }))  # fmt: skip
    assert (default.num_parameters(), len(default.state_dict())) == (111_663_360, 51)
    assert (released.num_parameters(), len(released.state_dict())) == (633_142_016, 136)
