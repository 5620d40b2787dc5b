"""The client hands on nothing that it has not checked, and never waits for long."""

import gzip
import io
import json
import random
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from fakes import HashingEmbedder
from safetensors.numpy import load_file
from serving import five_texts, misbehaving, request_body, send_answer, serving

from indexing import wire
from indexing.chunks import ChunkStore
from indexing.client import ClientLimits, RemoteIndexRetriever, RemoteRetriever, ServiceClient, open_remote
from indexing.datastore import Datastore
from indexing.errors import ConfigError, InputError, MismatchError, ServiceError
from indexing.service import Limits
from indexing.tokenizer import train_byte_level_bpe

FIXTURES = Path(__file__).parent / "data" / "http"
ROOT = Path(__file__).parent.parent
M = 11
DIM = 31
QUICK = ClientLimits(connect_seconds=0.2, read_seconds=0.3, seconds=0.5, pause_seconds=0.01)


@pytest.fixture(scope="module")
def datastore(tmp_path_factory, tokenizer) -> Datastore:
    return five_texts(tmp_path_factory.mktemp("datastores") / "notes", tokenizer, M, DIM)


@pytest.fixture(scope="module")
def url(datastore):
    with serving(datastore) as address:
        yield address


# ------------------------------------------------------------------------------ what is retrieved


def test_a_remote_retriever_finds_what_the_datastore_finds(url, datastore, tokenizer):
    remote = open_remote(f"{url}/#notes/dense", tokenizer)
    chunks = np.concatenate([np.asarray(datastore.chunks.tokens), np.asarray(datastore.chunks.tokens)])
    chunks = chunks[: 2 * 3 * 17].reshape(2, 51, M).astype(np.int64)  # more than fit into one request
    chunks[1, 5] = datastore.tokenizer.pad_id
    for leading in (chunks, chunks[0], chunks[0, 0], chunks[:0], chunks[:, :0]):
        for k in (1, 3):
            found, expected = remote.retrieve(leading, k), datastore.retrieve(leading, k)
            assert np.array_equal(found.ids, expected.ids) and found.ids.dtype == np.int64
            assert np.array_equal(found.distances, expected.distances) and found.distances.dtype == np.float32
            assert np.array_equal(found.tokens, expected.tokens) and found.tokens.dtype == np.int64
            assert (found.pad_id, found.measure) == (expected.pad_id, expected.measure)
    everything = remote.retrieve(chunks[0, :2], 100)
    assert (everything.ids[:, -1] == -1).all() and not everything.mask[:, -1].any()
    best = int(everything.ids[0, 0])
    assert remote.provenance(best) == datastore.provenance(best)
    with pytest.raises(InputError, match="Chunk 99999 was not among the neighbours found last"):
        remote.provenance(99999)
    assert (remote.name, remote.fingerprint) == ("notes", datastore.fingerprint)


def test_search_gives_hits(url, datastore):
    (hits,) = ServiceClient(url).search(["honey bees"], 2)
    expected = datastore.search("honey bees", 2)
    assert [(hit["chunk_id"], hit["distance"]) for hit in hits] == [
        (hit.chunk_id, hit.distance) for hit in expected
    ]


def test_models_of_another_kind_are_refused_before_they_ask(url):
    other = train_byte_level_bpe(["other words"], vocab_size=300, name="other")
    with pytest.raises(MismatchError, match="was built with the tokenizer '.*' .*not with 'other'"):
        open_remote(url, other)
    with pytest.raises(MismatchError, match=f"has chunks of {M} tokens, but was asked with chunks of 64"):
        open_remote(url).retrieve(np.zeros((1, 64), dtype=np.int64), 2)


def test_what_the_service_refuses_is_said_in_its_words(url):
    client = ServiceClient(url)
    with pytest.raises(
        InputError, match="No datastore of this name is served here. GET /v1/datastores lists"
    ):
        client.info("absent")
    with pytest.raises(InputError, match="k: Input should be less than or equal to 100."):
        client.search(["bees"], 1000)
    with pytest.raises(InputError, match=rf"Expected vectors as float32 \(n, {DIM}\), got float32 \[1, 7\]"):
        client.query(np.ones((1, 7)), 2)


class GivenTexts:
    """Decodes a chunk to its numbers, and embeds those with the reference's vectors."""

    name = fingerprint = "given"
    pad_id = 0
    dim = 384

    def __init__(self):
        self.tokens = np.load(FIXTURES / "chunks.npy")
        self.embeddings = np.load(FIXTURES / "embeddings.npy")

    def decode(self, chunk):
        return " ".join(str(int(token)) for token in chunk if token)

    def embed(self, texts):
        known = [self.decode(chunk) for chunk in self.tokens]
        return np.stack([self.embeddings[known.index(text)] for text in texts]).astype(np.float32)

    def store(self) -> ChunkStore:
        chunk2seq = np.load(FIXTURES / "chunk2seq.npy")
        seq2chunk = np.flatnonzero(np.diff(chunk2seq, prepend=-1))
        return ChunkStore(self.tokens, chunk2seq, seq2chunk, np.zeros(len(chunk2seq), np.int64))


class IndexServer:
    """What a server of the reference's format answers, without its code: nearest rows by a loop over all, -1
    and zeros where there are too few."""

    def __init__(self, embeddings: np.ndarray, damage=lambda answer: answer):
        self.embeddings = embeddings.astype(np.float32)
        self.damage = damage

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/query" and "content-type" not in request.headers
        queries, k = np.load(io.BytesIO(request.content)), int(request.url.params["k"])
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        distances = np.full((len(queries), k), 3.4e38, dtype=np.float32)
        embeddings = np.zeros((len(queries), k, queries.shape[1]), dtype=np.float32)
        for row, query in enumerate(queries):
            nearest = sorted((float(((v - query) ** 2).sum()), i) for i, v in enumerate(self.embeddings))[:k]
            for column, (distance, chunk) in enumerate(nearest):
                ids[row, column], distances[row, column] = chunk, distance
                embeddings[row, column] = self.embeddings[chunk]
        answer = {"distances": distances, "indices": ids, "embeddings": embeddings}
        return httpx.Response(200, content=zipped(self.damage(answer)))


def zipped(arrays: dict, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, array in arrays.items():
            with archive.open(name, "w") as member:
                member.write(array) if isinstance(array, bytes) else np.save(member, array)
    return buffer.getvalue()


def client_of(answer, limits: ClientLimits = QUICK, **more) -> ServiceClient:
    return ServiceClient("http://test:1", limits=limits, transport=httpx.MockTransport(answer), **more)


def test_the_references_format_gives_what_its_own_retriever_gives():
    given = GivenTexts()
    expected = load_file(FIXTURES / "index_service_retriever.safetensors")
    retriever = RemoteIndexRetriever(client_of(IndexServer(given.embeddings)), given.store(), given, given)
    found = retriever.retrieve(expected["chunks"], expected["neighbours"].shape[1])
    assert np.array_equal(found.tokens, expected["neighbours"])
    assert np.array_equal(found.ids, [[5, 6], [6, 5]])
    distances = (
        (given.embeddings[[5]].astype(np.float32) - given.embeddings[[6]].astype(np.float32)) ** 2
    ).sum()
    assert np.allclose(found.distances, [[0, distances], [0, distances]])


def test_the_references_answer_is_read():
    client = client_of(lambda request: httpx.Response(200, content=(FIXTURES / "response.zip").read_bytes()))
    distances, ids, embeddings = client.query(np.load(FIXTURES / "request_body.npy"), 3)
    assert ids.tolist() == [[5, 6, 7]] and embeddings.shape == (1, 3, 384)
    assert np.allclose(distances, [[0, 0.50203168, 0.64399004]])


def test_minus_one_from_other_servers_is_no_chunk():
    given = GivenTexts()
    few = IndexServer(given.embeddings[:2])
    retriever = RemoteIndexRetriever(client_of(few), given.store(), given, given)
    chunks = given.tokens[[0, 1, 2]].astype(np.int64)
    chunks[2] = 0
    found = retriever.retrieve(chunks, 3)
    assert found.ids.tolist() == [[0, 1, -1], [1, 0, -1], [-1, -1, -1]]
    assert np.isinf(found.distances[found.ids < 0]).all() and not found.mask[found.ids < 0].any()


def test_our_service_speaks_it_too(url, datastore):
    retriever = RemoteIndexRetriever(
        ServiceClient(url), datastore.chunks, datastore.tokenizer, datastore.embedder
    )
    chunks = np.asarray(datastore.chunks.tokens[:70]).astype(np.int64).reshape(2, 35, M)
    for k in (2, 100):
        found, expected = retriever.retrieve(chunks, k), datastore.retrieve(chunks, k)
        assert np.array_equal(found.ids, expected.ids) and np.array_equal(found.tokens, expected.tokens)
        assert np.allclose(found.distances, expected.distances, atol=1e-5)


# ------------------------------------------------------------------- answers that cannot be used

VECTORS = np.ones((2, 5), dtype=np.float32)
GOOD = {
    "distances": np.zeros((2, 3), np.float32),
    "indices": np.zeros((2, 3), np.int64),
    "embeddings": np.zeros((2, 3, 5), np.float32),
}


def bomb(claimed: int | None = None) -> bytes:
    """A small ZIP with a member many times as large, of which its directory may say less."""
    large = wire.dump_array(np.zeros((2, 3, 500)))
    data = zipped({**GOOD, "embeddings": large})
    if claimed is not None:
        at = data.rindex(len(large).to_bytes(4, "little"))
        data = data[:at] + claimed.to_bytes(4, "little") + data[at + 4 :]
    return data


def twice() -> bytes:
    """A ZIP with two members of one name."""
    data = zipped({**GOOD, "distancez": GOOD["distances"]})
    return data.replace(b"distancez", b"distances")


def without(*names: str) -> dict:
    return {name: array for name, array in GOOD.items() if name not in names}


BAD_ANSWERS = {
    "a page": (b"<html>Welcome</html>", "it is not a ZIP file"),
    "nothing": (b"", "it is not a ZIP file"),
    "raw": (zipped({name: array.tobytes() for name, array in GOOD.items()}), "does not begin like a .npy"),
    "one missing": (zipped(without("embeddings")), "it holds 'distances', 'indices' instead of distances,"),
    "twice": (twice(), "instead of distances, indices, embeddings"),
    "one more": (zipped({**GOOD, "../../etc/passwd": b"x"}), "instead of distances, indices, embeddings"),
    "pickle": (zipped({**GOOD, "indices": np.array([[None]], dtype=object)}), "indices: it holds object"),
    "type": (zipped({**GOOD, "indices": GOOD["distances"]}), "indices holds float32 instead of int64"),
    "fewer rows": (zipped({name: array[:1] for name, array in GOOD.items()}), "indices has shape [1, 3]"),
    "more columns": (zipped({**GOOD, "indices": np.zeros((2, 6), np.int64)}), "indices has shape [2, 6]"),
    "uneven": (zipped({**GOOD, "distances": np.zeros((2, 2), np.float32)}), "shapes [2, 2], [2, 3] and"),
    "narrow": (zipped({**GOOD, "embeddings": np.zeros((2, 3, 4), np.float32)}), " and [2, 3, 4] differ"),
    "NaN": (zipped({**GOOD, "distances": GOOD["distances"] * np.nan}), "distances or embeddings are not"),
    "infinite": (zipped({**GOOD, "embeddings": GOOD["embeddings"] + np.inf}), "embeddings are not numbers"),
    "a bomb": (bomb(), "embeddings has 24,128 bytes, more than was asked for"),
    "a lying bomb": (bomb(248), "embeddings cannot be unpacked"),
    "too long": (b"PK" * 10_000, "it has more than 4,480 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_zips_that_cannot_be_are_refused(case):
    body, clause = BAD_ANSWERS[case]
    client = client_of(lambda request: httpx.Response(200, content=body))
    with pytest.raises(ServiceError) as raised:
        client.query(VECTORS, 3)
    sentence = str(raised.value)
    assert sentence.startswith("The answer of the retrieval service at http://test:1 cannot be used: ")
    assert clause in sentence and len(sentence) < 400


def test_every_cut_and_every_flipped_byte_is_refused_or_harmless():
    body = zipped(GOOD, zipfile.ZIP_STORED)
    rng = random.Random(5)
    for _ in range(400):
        damaged = bytearray(body)
        if rng.random() < 0.3:
            damaged = damaged[: rng.randrange(len(body))]
        else:
            damaged[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        try:
            answer = wire.unpack_answer(bytes(damaged), 2, 3, 5)
        except ValueError:
            continue
        assert all((array == 0).all() for array in answer)


INFO = {
    "datastore": {
        "name": "x", "version": 1, "num_documents": 1, "num_chunks": 7, "chunk_size": 3, "fingerprint": "f",
        "tokenizer": {"name": "t", "fingerprint": "tf", "vocab_size": 23, "pad_id": 0},
        "embedder": {"name": "e", "fingerprint": "ef", "dim": 5},
    },
    "retrievers": ["dense"],
}  # fmt: skip
ANSWER = {
    "datastore": "x", "version": 1, "num_chunks": 7, "tokenizer": "tf", "pad_id": 0, "measure": "squared L2",
    "ids": [[6, -1]], "distances": [[0.5, None]], "scores": None, "tokens": [[[1, 2, 3, 4, 5, 0], [0] * 6]],
    "origins": [[{"document_id": "d", "title": "t", "offset": 0, "source": "s"}, None]],
}  # fmt: skip
CHUNK = np.array([[1, 2, 3]])


def json_server(answer):
    def respond(request):
        if request.url.path == "/v1/info":
            return httpx.Response(200, json=INFO)
        return (
            answer if isinstance(answer, httpx.Response) else httpx.Response(200, content=json.dumps(answer))
        )

    return respond


def test_a_good_answer_is_taken():
    found = RemoteRetriever(client_of(json_server(ANSWER))).retrieve(CHUNK, 2)
    assert found.ids.tolist() == [[6, -1]] and found.distances.tolist() == [[0.5, np.inf]]
    ranked = {**ANSWER, "measure": "BM25", "scores": [[7.5, None]], "distances": [[None, None]]}
    found = RemoteRetriever(client_of(json_server(ranked))).retrieve(CHUNK, 2)
    assert found.measure == "BM25" and found.scores.tolist() == [[7.5, -np.inf]]


@pytest.mark.parametrize("change, clause", [
    ({"ids": [[7, -1]]}, "ids in range"), ({"ids": [[-2, -1]]}, "ids in range"),
    ({"ids": [[-1, 6]]}, "order of ids"), ({"ids": [[6]]}, "ids"), ({"ids": [[6.0, -1]]}, "ids"),
    ({"ids": [[True, False]]}, "ids"), ({"ids": [["6", -1]]}, "ids"), ({"ids": [[6, 10**30]]}, "ids"),
    ({"ids": {}}, "ids"), ({"ids": None}, "ids"), ({"ids": [[6], [1, 2]]}, "ids"),
    ({"distances": [[None, None]]}, "distances"), ({"distances": [[0.5, 0.5]]}, "distances"),
    ({"distances": [["0.5", None]]}, "distances"), ({"distances": [[float("nan"), None]]}, "distances"),
    ({"distances": [[float("inf"), None]]}, "distances"), ({"distances": [[0.5]]}, "distances"),
    ({"tokens": [[[1, 2, 3, 4, 5, 23], [0] * 6]]}, "tokens in range"),
    ({"tokens": [[[1, 2, 3, 4, 5, -1], [0] * 6]]}, "tokens in range"),
    ({"tokens": [[[1, 2, 3], [0] * 3]]}, "tokens"), ({"tokens": [[[0] * 6, [1] * 6]]}, "tokens of missing"),
    ({"pad_id": 1}, "pad_id"), ({"origins": []}, "origins"), ({"origins": [[None, None]]}, "content"),
    ({"num_chunks": -1}, "number"), ({"num_chunks": "7"}, "number"), ({"measure": None}, "content"),
    ({"scores": [[1, 2, 3]]}, "scores"),
])  # fmt: skip
def test_json_that_cannot_be_is_refused(change, clause):
    retriever = RemoteRetriever(client_of(json_server({**ANSWER, **change})))
    with pytest.raises(ServiceError, match="cannot be used: /v1/retrieve has no proper") as raised:
        retriever.retrieve(CHUNK, 2)
    assert f"has no proper {clause}" in str(raised.value)


@pytest.mark.parametrize("forms", [[], "dense", None, [1]])
def test_a_service_says_what_it_finds_with(forms):
    client = client_of(lambda request: httpx.Response(200, json={**INFO, "retrievers": forms}))
    with pytest.raises(ServiceError, match="/v1/info has no proper (list of retrievers|content)"):
        RemoteRetriever(client)


@pytest.mark.parametrize("answer, clause", [
    (httpx.Response(200, text="<html>"), "/v1/retrieve is not JSON"),
    (httpx.Response(200, content=b"[" * 99_000), "/v1/retrieve is not JSON"),
    (httpx.Response(200, json=[1]), "/v1/retrieve is not a JSON object"),
    (httpx.Response(200, content=b"x" * 100_001), "it has more than 100,000 bytes"),
    (httpx.Response(302, headers={"location": "http://127.0.0.1:1/"}), "its status is 302 instead of 200"),
    (httpx.Response(500, text="oops"), "its status is 500 instead of 200"),
    (httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(gzip.compress(b"{}"))),
     "it is packed, which was not asked for"),
])  # fmt: skip
def test_answers_of_other_servers_are_refused_without_a_second_try(answer, clause):
    asked = []

    def respond(request):
        asked.append(request.url.path)
        return json_server(answer)(request)

    limits = ClientLimits(answer_bytes=100_000)
    retriever = RemoteRetriever(client_of(respond, limits))
    with pytest.raises(ServiceError) as raised:
        retriever.retrieve(CHUNK, 2)
    assert clause in str(raised.value) and asked == ["/v1/info", "/v1/retrieve"]


def test_a_datastore_that_changes_its_tokenizer_is_noticed():
    retriever = RemoteRetriever(client_of(json_server({**ANSWER, "tokenizer": "another"})))
    with pytest.raises(MismatchError, match="with another tokenizer than before. Connect anew."):
        retriever.retrieve(CHUNK, 2)


def test_chunks_of_another_index_are_noticed():
    given = GivenTexts()
    twice = IndexServer(np.concatenate([given.embeddings + 1, given.embeddings]))
    retriever = RemoteIndexRetriever(client_of(twice), given.store(), given, given)
    with pytest.raises(ServiceError, match="found chunk 37 of the 32 that are here"):
        retriever.retrieve(given.tokens[[5]].astype(np.int64), 1)


# ------------------------------------------------------------------------------- waiting has an end


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self):
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def timing_client(respond, clock: Clock) -> ServiceClient:
    """With the limits that people have, in a time of its own."""
    return client_of(respond, ClientLimits(), clock=clock, sleep=clock.sleep)


@pytest.mark.parametrize("phase, error, at_most", [
    ("connect", httpx.ConnectTimeout, 3 * 2.0 + 0.6), ("read", httpx.ReadTimeout, 12.0),
])  # fmt: skip
def test_a_server_that_is_silent_costs_twelve_seconds_at_most(phase, error, at_most):
    clock, asked = Clock(), []

    def respond(request):
        asked.append(clock.now)
        clock.now += request.extensions["timeout"][phase]
        raise error("silent", request=request)

    client = timing_client(respond, clock)
    with pytest.raises(ServiceError, match="does not answer: .*go on without retrieval"):
        client.search(["bees"], 1)
    assert clock.now - 1000 <= at_most + 0.01
    assert len(asked) == (3 if phase == "connect" else 2)


def test_a_server_that_is_gone_is_left_alone_for_a_while():
    clock, asked = Clock(), []

    def respond(request):
        asked.append(clock.now)
        if answers:
            return answers.pop()
        raise httpx.ConnectError("refused", request=request)

    answers: list = []
    client = timing_client(respond, clock)
    for _ in range(3):
        with pytest.raises(ServiceError, match="does not answer: no connection. Check that it runs"):
            client.search(["bees"], 1)
    assert len(asked) == 9
    assert all(
        0.1 <= first <= 0.2 and 0.2 <= second <= 0.4 for first, second in np.reshape(clock.slept, (3, 2))
    )
    assert len(set(clock.slept)) == 6  # not in step with other clients
    with pytest.raises(
        ServiceError, match="did not answer 3 times in a row and is not asked for another 30 s"
    ):
        client.search(["bees"], 1)
    clock.now += 29
    assert not client.is_available() and len(asked) == 9
    clock.now += 1.5
    with pytest.raises(ServiceError, match="does not answer"):  # one call tries ...
        client.search(["bees"], 1)
    assert len(asked) == 12
    assert not client.is_available() and len(asked) == 12  # ... and the rest begins anew
    clock.now += 30.5
    answers.append(httpx.Response(200, json={"hits": [[]]}))
    assert client.search(["bees"], 1) == [[]]
    answers.append(httpx.Response(200, json={"hits": [[]]}))
    assert client.search(["bees"], 1) == [[]]


def test_after_the_rest_one_call_tries_and_the_others_rest_on():
    clock, inner = Clock(), []

    def respond(request):
        if clock.now > 1030:
            with pytest.raises(ServiceError, match="is not asked for another 30 s"):
                inner.append(client.search(["bees"], 1))  # what another thread does meanwhile
            return httpx.Response(200, json={"hits": [[]]})
        raise httpx.ConnectError("refused", request=request)

    client = timing_client(respond, clock)
    for _ in range(3):
        with pytest.raises(ServiceError):
            client.search(["bees"], 1)
    clock.now += 31
    assert client.search(["bees"], 1) == [[]] and not inner


def test_what_may_pass_is_tried_again_and_what_is_refused_is_not():
    clock, asked = Clock(), []
    answers = [httpx.Response(200, json={"hits": [[]]}), httpx.Response(503), httpx.Response(429)]

    def respond(request):
        asked.append(request)
        return answers.pop()

    client = timing_client(respond, clock)
    assert client.search(["bees"], 1) == [[]] and len(asked) == 3
    detail = {"detail": "Too many\n\x1b[31m words"}
    answers += [httpx.Response(422, json={"detail": "k: too many."})]
    with pytest.raises(InputError, match=r"cannot use the request \(422\): k: too many."):
        client.search(["bees"], 1)
    answers += [httpx.Response(400, json=detail)]
    with pytest.raises(InputError, match=r"\(400\): it does not say why.$"):  # nothing for a terminal to obey
        client.search(["bees"], 1)
    answers += [httpx.Response(401)]
    with pytest.raises(ServiceError, match=r"refuses \(401\). Give its token in RETRO_SERVICE_TOKEN"):
        client.search(["bees"], 1)
    assert len(asked) == 6


def silent(connection: socket.socket) -> None:
    request_body(connection)
    time.sleep(2)


def half(connection: socket.socket) -> None:
    request_body(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of i")


def reset(connection: socket.socket) -> None:
    request_body(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


def drip(connection: socket.socket) -> None:
    request_body(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b" ")
        time.sleep(0.02)


def noise(connection: socket.socket) -> None:
    request_body(connection)
    connection.sendall(random.Random(1).randbytes(500))


@pytest.mark.parametrize("answer, clause, tries", [
    (silent, "nothing came for 0.3 s", 2), (half, "the connection broke off", 3),
    (reset, "the connection broke off", 3), (drip, "was not complete after 0.5 s", 1),
    (noise, "the connection broke off", 3),
])  # fmt: skip
def test_servers_that_stop_in_the_middle(answer, clause, tries):
    with misbehaving(answer) as (address, calls):
        began = time.monotonic()
        with pytest.raises(ServiceError) as raised:
            ServiceClient(address, limits=QUICK).query(VECTORS, 3)
        assert clause in str(raised.value) and time.monotonic() - began < 2
        assert len(calls) <= tries


def test_fifty_servers_killed_in_a_request_cost_no_time():
    rest = ClientLimits(pause_seconds=0.001, failures=1000)
    with misbehaving(reset) as (address, calls):
        client = ServiceClient(address, limits=rest)
        for _ in range(50):
            began = time.monotonic()
            with pytest.raises(ServiceError, match="the connection broke off"):
                client.query(VECTORS, 3)
            assert time.monotonic() - began < 2
        assert len(calls) == 150


def test_a_server_that_comes_back_is_found():
    def answer(connection):
        request_body(connection)
        if len(calls) > 1:
            send_answer(connection, zipped(GOOD))

    with misbehaving(answer) as (address, calls):
        _, ids, _ = ServiceClient(address, limits=QUICK).query(VECTORS, 3)
    assert ids.shape == (2, 3) and len(calls) == 2


def test_a_busy_service_is_waited_for(datastore):
    class Slow(HashingEmbedder):
        def embed(self, texts):
            time.sleep(0.15)
            return super().embed(texts)

    slow = Datastore.open(datastore.path, embedder=Slow("hashing", DIM))
    with serving(slow, limits=Limits(workers=1, waiting=0)) as address:
        client, found = ServiceClient(address, limits=ClientLimits(retries=9, pause_seconds=0.1)), []
        threads = [
            threading.Thread(target=lambda: found.append(client.search(["bees"], 1))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 3


# ------------------------------------------------------------------------------------ where to ask


def test_addresses_that_are_none_are_refused():
    for url in ("127.0.0.1:8000", "ftp://host", "http://", "http://host:99999", "file:///etc/passwd", "",
                "http://me:secret@host", "http://host/?x=1", "http://[::1"):  # fmt: skip
        with pytest.raises(ConfigError, match="Expected the address of a retrieval service like") as raised:
            ServiceClient(url)
        assert "secret" not in str(raised.value)
    with pytest.raises(ConfigError, match="A token has visible ASCII characters only"):
        ServiceClient("http://host", token="line\nbreak")


def test_requests_go_only_where_the_address_says(url, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    assert ServiceClient(url, limits=QUICK).is_available()
    assert not ServiceClient("http://127.0.0.1:1", limits=QUICK).is_available()
    elsewhere = []
    with misbehaving(lambda connection: elsewhere.append(connection)) as (other, _):

        def redirect(connection):
            request_body(connection)
            send_answer(connection, b"", "307 Temporary Redirect", f"location: {other}/v1/search")

        with misbehaving(redirect) as (address, _), pytest.raises(ServiceError, match="its status is 307"):
            ServiceClient(address, limits=QUICK).search(["bees"], 1)
    assert not elsewhere


def test_the_token_goes_with_every_request(datastore, monkeypatch):
    with serving(datastore, token="sixteen-or-more-characters") as address:
        client = ServiceClient(address, token="sixteen-or-more-characters")
        assert client.search(["bees"], 1) and RemoteRetriever(client).retrieve(np.full((1, M), 65), 1)
        monkeypatch.setenv("RETRO_SERVICE_TOKEN", "sixteen-or-more-characters")
        assert open_remote(address).name == "notes"
        for token in (None, "another-of-sixteen-characters"):
            with pytest.raises(ServiceError, match=r"refuses \(401\)") as raised:
                ServiceClient(address, token=token).info()
            assert "another" not in str(raised.value)


# ------------------------------------------------------------------------------ real processes


@pytest.mark.slow
def test_a_service_killed_in_a_request():
    """A real server with SIGKILL at a random moment of a request that takes a while."""
    code = (
        "import sys, time; sys.path.insert(0, 'tests')\nfrom fakes import HashingEmbedder\n"
        "from indexing import datastore\nfrom indexing.build import build\n"
        "from indexing.cli import main\nfrom indexing.corpus import Document\n"
        "from indexing.tokenizer import train_byte_level_bpe\n"
        "class Slow(HashingEmbedder):\n"
        "    def embed(self, texts):\n        time.sleep(0.3); return super().embed(texts)\n"
        "datastore.open_embedder = Slow\n"
        "tokenizer = train_byte_level_bpe(['a b c'], 300, 'tiny')\n"
        "list(build('x', [Document('a', 'A', 'a b c', 'x')], tokenizer, Slow(), replace=True))\n"
        "sys.exit(main(['serve', 'x', '--port', '0']))"
    )
    rng = random.Random(11)
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        address = process.stdout.readline().split()[3]
        client = ServiceClient(address)
        assert client.search(["a b"], 1)[0]
        timer = threading.Timer(rng.uniform(0, 0.3), process.kill)
        timer.start()
        began = time.monotonic()
        with pytest.raises(ServiceError, match="does not answer"):
            client.search(["a b"], 1)
        assert time.monotonic() - began < 12
        process.communicate()


@pytest.mark.slow
def test_the_references_retriever_with_the_real_embedder():
    """Its fixture with everything real: tokenizer and embedder of the reference's pipeline."""
    from indexing.embedder import SentenceTransformerEmbedder, _packaged_minilm
    from indexing.tokenizer import Tokenizer

    given, expected = GivenTexts(), load_file(FIXTURES / "index_service_retriever.safetensors")
    retriever = RemoteIndexRetriever(
        client_of(IndexServer(given.embeddings)),
        given.store(),
        Tokenizer.load(_packaged_minilm()),
        SentenceTransformerEmbedder(),
    )
    assert np.array_equal(retriever.retrieve(expected["chunks"], 2).tokens, expected["neighbours"])
