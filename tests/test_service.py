"""The service answers what the reference's client understands, says no in one sentence, and outlives whoever
asks badly or slowly."""

import copy
import io
import json
import logging
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

import httpx
import numpy as np
import pytest
import uvicorn
from conftest import SENTENCES
from fakes import HashingEmbedder
from serving import five_texts, serving
from uvicorn.protocols.http.h11_impl import H11Protocol

from indexing import service, wire
from indexing.build import append, build
from indexing.cli import main
from indexing.client import ClientLimits, RemoteRetriever, ServiceClient
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import ConfigError, InputError
from indexing.index import FlatIndex
from indexing.retrievers import open_lookup, open_retriever
from indexing.service import Limits
from indexing.upkeep import delete

FIXTURES = Path(__file__).parent / "data" / "http"
ROOT = Path(__file__).parent.parent
M = 13
DIM = 29
TOKEN = "a-token-of-29-characters-long"


@pytest.fixture(scope="module")
def datastore(tmp_path_factory, tokenizer) -> Datastore:
    return five_texts(tmp_path_factory.mktemp("datastores") / "notes", tokenizer, M, DIM)


@pytest.fixture(scope="module")
def url(datastore):
    with serving(datastore, retrievers=("dense", "bm25", "hybrid-rerank")) as address:
        yield address


@pytest.fixture(scope="module")
def http(url):
    with asking(url) as client:
        yield client


def asking(address: str) -> httpx.Client:
    # Without certificates, which take longer to load than most tests.
    return httpx.Client(base_url=address, trust_env=False, verify=False, timeout=20)


def problem(response: httpx.Response, status: int) -> str:
    """The sentence of a refusal."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status and body["title"] and set(body) == {"type", "title", "status", "detail"}
    return body["detail"]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: np.load(io.BytesIO(archive.read(name))) for name in archive.namelist()}


# -------------------------------------------------------------------------- the reference's format


class FixtureDatastore:
    """The vectors from which the reference's answers were made."""

    name = "fixture"
    version = 1

    def __init__(self):
        self.embeddings = np.load(FIXTURES / "embeddings.npy")
        self._index = FlatIndex(self.embeddings)

    def current(self):
        return self

    def nearest_vectors(self, vectors, k):
        return self._index.search(vectors, k)


def without_times(archive: bytes) -> bytes:
    """A ZIP with the time of each member set to zero, in both of the places where it stands."""
    data = bytearray(archive)
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        entry = opened.start_dir
        for member in opened.infolist():
            data[member.header_offset + 10 : member.header_offset + 14] = bytes(4)
            data[entry + 12 : entry + 16] = bytes(4)
            entry += 46 + len(member.filename)
    return bytes(data)


def test_the_answer_is_byte_for_byte_what_the_references_client_was_given():
    with serving(FixtureDatastore()) as address:
        # Request and query as `requests.post(url, data=bytes)` sends them: no content type.
        response = asking(address).post("/query?k=3", content=(FIXTURES / "request_body.npy").read_bytes())
    assert response.status_code == 200
    assert without_times(response.content) == without_times((FIXTURES / "response.zip").read_bytes())


def ask_like_the_reference(url: str, vectors: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """What the reference's client does, with the standard library."""
    request = Request(f"{url}/query?k={k}", data=npy(vectors), headers={"Content-Type": ""})
    with urlopen(request) as response:
        return zipped(response.read())


def test_vectors_find_what_texts_find(url, datastore):
    vectors = datastore.embedder.embed(SENTENCES)
    answer = ask_like_the_reference(url, vectors, 7)
    assert {name: array.dtype for name, array in answer.items()} == {
        "distances": np.float32, "indices": np.int64, "embeddings": np.float32,
    }  # fmt: skip
    assert answer["embeddings"].shape == (len(SENTENCES), 7, DIM)
    for row, query in enumerate(vectors):
        assert np.array_equal(answer["embeddings"][row], datastore.embeddings[answer["indices"][row]])
        distances = ((answer["embeddings"][row] - query) ** 2).sum(axis=1)
        assert np.allclose(answer["distances"][row], distances, atol=1e-5)
        every = ((np.asarray(datastore.embeddings, dtype=np.float32) - query) ** 2).sum(axis=1)
        assert np.allclose(np.sort(every)[:7], distances, atol=1e-5)  # no end mark alone is near


def test_more_than_there_are_leaves_no_minus_one(url, datastore, tokenizer):
    total = len(datastore.chunks)
    assert total < 100
    answer = ask_like_the_reference(url, datastore.embedder.embed(["Nile", "Etna"]), 100)
    found = answer["indices"].shape[1]
    assert total - 5 <= found <= total and answer["embeddings"].shape == (2, found, DIM)
    assert (answer["indices"] >= 0).all() and np.isfinite(answer["distances"]).all()


@pytest.mark.skipif("RETRO_REFERENCE" not in os.environ, reason="RETRO_REFERENCE: the reference's checkout")
def test_the_references_own_client(url, datastore):
    vectors = datastore.embedder.embed(SENTENCES[:3])
    code = (
        "import io, sys, numpy as np\nfrom retrieval import IndexServiceClient\n"
        "client = IndexServiceClient('127.0.0.1', int(sys.argv[1]))\nassert client.is_available()\n"
        "vectors = np.load(io.BytesIO(sys.stdin.buffer.read()))\nfor k in (2, 100):\n"
        "    for array in client.query(vectors, k): np.save(sys.stdout.buffer, array)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, url.rpartition(":")[2]],
        input=npy(vectors), capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(os.environ["RETRO_REFERENCE"]) / "src")},
    )  # fmt: skip
    answers = io.BytesIO(done.stdout)
    for k in (2, 100):
        distances, ids, embeddings = (np.load(answers) for _ in range(3))
        expected_ids, expected = datastore.nearest_vectors(vectors, k)
        assert np.array_equal(ids, expected_ids[:, : ids.shape[1]]) and (ids >= 0).all()
        assert (expected_ids[:, ids.shape[1] :] == -1).all()
        assert np.array_equal(distances, expected[:, : ids.shape[1]])
        assert embeddings.shape == (*ids.shape, DIM)


# ------------------------------------------------------------------------------------ the JSON API


def test_search_gives_text_continuation_origin_and_distance(http, datastore):
    answer = http.post("/v1/search", json={"texts": ["honey bees dancing", "Zürich 東京"], "k": 3}).json()
    assert answer["distance"] == {"metric": "squared L2", "range": [0, 4], "nearest": "smallest"}
    assert (answer["datastore"], answer["version"]) == ("notes", datastore.version)
    for text, hits in zip(["honey bees dancing", "Zürich 東京"], answer["hits"], strict=True):
        expected = datastore.search(text, 3)
        assert hits == [
            {
                "chunk_id": hit.chunk_id, "document_id": hit.document_id, "title": hit.title,
                "offset": hit.offset, "source": datastore.provenance(hit.chunk_id).source,
                "distance": hit.distance, "score": None, "text": hit.text, "continuation": hit.continuation,
            }
            for hit in expected
        ]  # fmt: skip
    assert "東京" in http.post("/v1/search", json={"texts": ["東京"]}).text  # readable in a terminal
    assert json.loads(service._dump("東京 \ud800")) == "東京 \ud800"  # what JSON can spell and UTF-8 cannot


def test_retrieve_gives_what_the_datastore_gives(http, datastore):
    chunks = np.asarray(datastore.chunks.tokens[:5]).astype(np.int64)
    chunks[3] = datastore.tokenizer.pad_id
    answer = http.post("/v1/retrieve", json={"chunks": chunks.tolist(), "k": 3}).json()
    expected = datastore.retrieve(chunks, 3)
    assert np.array_equal(answer["ids"], expected.ids)
    assert np.array_equal(answer["tokens"], expected.tokens)
    assert answer["distances"][3] == [None] * 3 == answer["origins"][3]
    present = expected.ids >= 0
    assert np.array_equal(np.array(answer["distances"], float)[present], expected.distances[present])
    assert answer["origins"][0][0]["title"] == datastore.provenance(int(expected.ids[0, 0])).title
    by_text = http.post("/v1/retrieve", json={"texts": [SENTENCES[0]], "k": 2}).json()
    ids, _ = datastore.nearest([SENTENCES[0]], 2)
    assert np.array_equal(by_text["ids"], ids)
    assert np.array_equal(by_text["tokens"], datastore.chunks.retrieved_tokens(ids))


@pytest.mark.parametrize("form", ["dense", "first-chunk", "bm25", "hybrid-rrf", "hybrid-rerank", "random:3"])
def test_documents_are_chosen_and_left_out(datastore, form):
    ids = [document.id for document in datastore.documents]
    chunks = np.asarray(datastore.chunks.tokens[:5]).astype(np.int64)
    with serving(datastore, retrievers=(form,)) as address:
        http = asking(address)
        everything = http.post("/v1/search", json={**SEARCH, "k": 100}).json()["hits"][0]
        present = list(dict.fromkeys(hit["document_id"] for hit in everything))
        assert len(present) > 2
        for asked in ({"only": present[:2]}, {"exclude": present[:1]}, {"only": ids, "exclude": present[1:]}):
            allowed = {*(asked.get("only") or ids)} - {*asked.get("exclude", ())}
            hits = http.post("/v1/search", json={**SEARCH, "k": 100, **asked}).json()["hits"][0]
            assert {hit["document_id"] for hit in hits} == {*present} & allowed
            remote = RemoteRetriever(ServiceClient(address), **asked)
            found = remote.retrieve(chunks, 3)
            expected = open_retriever(form, datastore, **asked).retrieve(chunks, 3)
            assert np.array_equal(found.ids, expected.ids) and (found.ids >= 0).any()
            opened = open_retriever(address, None, **asked).retrieve(chunks, 3)
            assert np.array_equal(opened.ids, expected.ids)
        refused = http.post("/v1/search", json={**SEARCH, "only": ["nobody"]})
        assert "has no document 'nobody'" in problem(refused, 400)
        assert "list" in problem(http.post("/v1/search", json={**SEARCH, "only": "x"}), 422)


def test_requests_choose_among_the_retrievers_that_are_served(datastore):
    lookup = open_lookup("hybrid-rrf", datastore)
    with serving(datastore, retrievers=("bm25", "dense", "hybrid-rrf", "random:5")) as address:
        http = asking(address)
        assert http.get("/v1/info").json()["retrievers"] == ["bm25", "dense", "hybrid-rrf", "random:5"]
        answer = http.post("/v1/search", json={"texts": ["honey bees", "xyzzy"], "k": 3}).json()
        assert (answer["retriever"], answer["measure"]) == ("bm25", "BM25")
        assert answer["order"] == "score, largest first"
        scores = [hit["score"] for hit in answer["hits"][0]]
        assert scores == sorted(scores, reverse=True) and answer["hits"][1] == []
        assert all("bees" in hit["text"] + hit["continuation"] for hit in answer["hits"][0])
        chunks = np.asarray(datastore.chunks.tokens[:3]).astype(np.int64)
        fused = http.post(
            "/v1/retrieve", json={"chunks": chunks.tolist(), "k": 4, "retriever": "hybrid-rrf"}
        ).json()
        expected = lookup.retrieve(chunks, 4)
        assert np.array_equal(fused["ids"], expected.ids) and fused["measure"] == expected.measure
        assert np.allclose(fused["scores"], expected.scores)
        drawn = http.post("/v1/search", json={**SEARCH, "retriever": "random:5"}).json()
        assert drawn["order"] == "none" and len(drawn["hits"][0]) == 2
        remote = RemoteRetriever(ServiceClient(address), retriever="hybrid-rrf").retrieve(chunks, 4)
        assert np.array_equal(remote.ids, expected.ids) and remote.measure == expected.measure
        assert np.allclose(remote.scores, expected.scores)
        for form in ("off", "http://127.0.0.1:1", "hybrid-rerank", "random:6", "../x"):
            refused = http.post("/v1/search", json={**SEARCH, "retriever": form})
            served = "Expected one of the retrievers served here: bm25, dense, hybrid-rrf, random:5."
            assert problem(refused, 400) == served
    for form in ("off", "http://127.0.0.1:1", "nearest"):
        with pytest.raises(InputError):
            service.Library([datastore], [form])


def test_info_has_fingerprints_and_no_folder(http, datastore):
    info = http.get("/v1/info").json()
    facts = info["datastore"]
    assert facts["fingerprint"] == datastore.fingerprint and facts["num_chunks"] == len(datastore.chunks)
    assert facts["tokenizer"]["fingerprint"] == datastore.tokenizer.fingerprint
    assert facts["embedder"] == {"name": "hashing", "fingerprint": f"hashing-{DIM}", "dim": DIM}
    assert http.get("/v1/info", params={"datastore": "notes"}).json() == info
    assert http.get("/v1/datastores").json() == [facts]
    assert info["limits"]["k"] == 100 and info["limits"]["texts"] == 64
    assert str(datastore.path) not in json.dumps(info)
    assert service._public_name("/home/somebody/models/mine") == "mine"
    assert service._public_name("sentence-transformers/all-MiniLM-L6-v2").startswith("sentence-")


def test_several_datastores_are_asked_by_name(datastore):
    class Other(FixtureDatastore):
        name = "other"

    with serving(datastore, Other()) as address, asking(address) as http:
        for name in (None, "notes"):
            query = {"texts": ["Nile"], "datastore": name}
            assert http.post("/v1/search", json=query).json()["datastore"] == "notes"
        absent = problem(http.post("/v1/search", json={"texts": ["Nile"], "datastore": "absent"}), 404)
        assert absent == "No datastore of this name is served here. GET /v1/datastores lists them."
    with pytest.raises(ConfigError, match="different names, got notes, notes"):
        service.Library([datastore, datastore])


def test_a_new_version_answers_the_next_request(tokenizer):
    embedder = HashingEmbedder(dim=DIM)
    documents = [Document(str(i), f"T{i}", text, "x") for i, text in enumerate(SENTENCES[:3])]
    list(build("living", documents[:1], tokenizer, embedder, chunk_size=M))
    with serving(Datastore.open("living", embedder=embedder)) as address, asking(address) as http:

        def titles():
            answer = http.post("/v1/search", json={"texts": ["Mount Etna in Sicily"], "k": 50}).json()
            return answer["version"], {hit["title"] for hit in answer["hits"][0]}

        first, found = titles()
        assert found == {"T0"}
        list(append("living", documents[1:], embedder))
        second, found = titles()
        assert second > first and found == {"T0", "T1", "T2"}
        delete("living", ["1"])
        third, found = titles()
        assert third > second and found == {"T0", "T2"}
        query = {"chunks": np.asarray(Datastore.open("living").chunks.tokens[:3]).tolist(), "k": 50}
        origins = http.post("/v1/retrieve", json=query).json()["origins"]
        assert {origin["title"] for row in origins for origin in row if origin} == {"T0", "T2"}


# ------------------------------------------------------------------------------ what is refused

SEARCH = {"texts": ["bees"]}


@pytest.mark.parametrize("body, status, sentence", [
    (b"", 422, "body: Field required."),
    (b"{", 400, service._NOT_JSON),
    (b"\xff\xfe", 400, service._NOT_JSON),
    (b"[" * 100_000, 400, service._NOT_JSON),
    (b"[]", 422, "body: Input should be a valid dictionary or object"),
    (b'{"texts": ["\\ud800"]}', 422, "texts.0: a text has characters that are none, lone surrogates."),
    (b'{"texts": ["a"], "k": ' + b"9" * 5000 + b"}", 400, service._NOT_JSON),
    ({"texts": []}, 422, "texts: List should have at least 1 item"),
    ({"texts": ["bees"] * 65}, 422, "texts: List should have at most 64 items"),
    ({"texts": ["é" * 4097]}, 422, "texts.0: a text may have 8,192 bytes, this one has 8,194."),
    ({"texts": [" \n"]}, 422, "texts.0: a text to look for is not empty."),
    ({"texts": "bees"}, 422, "texts: Input should be a valid list."),
    ({"texts": [1]}, 422, "texts.0: Input should be a valid string."),
    ({**SEARCH, "k": 0}, 422, "k: Input should be greater than or equal to 1."),
    ({**SEARCH, "k": 10**9}, 422, "k: Input should be less than or equal to 100."),
    ({**SEARCH, "k": 2.0}, 422, "k: Input should be a valid integer."),
    ({**SEARCH, "k": True}, 422, "k: Input should be a valid integer."),
    ({**SEARCH, "K": 2}, 422, "K: Extra inputs are not permitted."),
])  # fmt: skip
def test_a_search_that_cannot_be_is_refused_in_a_sentence(http, body, status, sentence):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = http.post("/v1/search", content=content, headers={"content-type": "application/json"})
    assert problem(response, status).startswith(sentence)


@pytest.mark.parametrize("body, status, sentence", [
    ({}, 422, "body: give either chunks or texts."),
    ({"chunks": [[1] * M], "texts": ["a"]}, 422, "body: give either chunks or texts."),
    ({"chunks": [[1] * (M - 1)]}, 400, f"Expected chunks of {M} token ids, got one of {M - 1}. Pad"),
    ({"chunks": [[1] * M, []]}, 400, f"Expected chunks of {M} token ids, got one of 0."),
    ({"chunks": [[400] * M]}, 400, "Token id 400 is outside the datastore's vocabulary of 400. Send texts"),
    ({"chunks": [[-1] * M]}, 422, "chunks.0.0: Input should be greater than or equal to 0."),
    ({"chunks": [[2**70] * M]}, 422, "chunks.0.0: "),
    ({"chunks": [[1] * M] * 65}, 422, "chunks: List should have at most 64 items"),
])  # fmt: skip
def test_chunks_that_cannot_be_are_refused_in_a_sentence(http, body, status, sentence):
    assert problem(http.post("/v1/retrieve", json=body), status).startswith(sentence)


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode("latin-1")


BAD_VECTORS = {
    "empty": (b"", "it does not begin like a .npy file"),
    "a zip bomb's beginning": (b"PK\x03\x04", "it does not begin like a .npy file"),
    "version 9": (header("", b"\x09\x00"), "its .npy header cannot be read"),
    "no header": (b"\x93NUMPY\x01\x00\xff", "its .npy header cannot be read"),
    "nested header": (header("(" * 400), "its .npy header cannot be read"),
    "long header": (header("{" + " " * 5000 + "}"), "its .npy header cannot be read"),
    "more than there is": (
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 29)}"),
        "its shape [1000000000000, 29] does not fit to 0 bytes of float32",
    ),
    "negative": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -29)}"), "does not fit"),
    "pickle": (npy(np.array([{"a": 1}], dtype=object)), "it holds object instead of numbers"),
    "text": (npy(np.array(["abc"])), "it holds str96 instead of numbers"),
    "structured": (npy(np.zeros(2, dtype=[("a", "<f4")])), "instead of numbers"),
    "one axis": (npy(np.zeros(DIM, dtype=np.float32)), "float32 [29]"),
    "none": (npy(np.zeros((0, DIM), dtype=np.float32)), "float32 [0, 29]"),
    "whole numbers": (npy(np.zeros((2, DIM), dtype=np.int64)), "int64 [2, 29]"),
    "narrow": (npy(np.zeros((2, 7))), "Expected vectors as float32 (n, 29), got float64 [2, 7]. Embed"),
    "cut off": (npy(np.zeros((2, DIM), dtype=np.float32))[:-1], "does not fit to 231 bytes"),
    "NaN": (npy(np.full((2, DIM), np.nan, dtype=np.float32)), "are not finite, or are huge"),
    "infinite": (npy(np.full((2, DIM), -np.inf, dtype=np.float16)), "are not finite, or are huge"),
    "huge": (npy(np.full((2, DIM), 1e200)), "are not finite, or are huge"),
    "too many": (npy(np.ones((1601, DIM), dtype=np.float32)), "An answer has at most 6,400 neighbours"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_vectors_that_cannot_be_are_refused_in_a_sentence(http, case):
    body, clause = BAD_VECTORS[case]
    assert clause in problem(http.post("/query?k=4", content=body), 400)


@pytest.mark.parametrize(
    "k", ["0", "-1", "101", "1000000000", "9" * 5000, "abc", "１", "1_0", "+1", "%00", "1.0", ""]
)
def test_k_is_a_small_number(http, k):
    body = npy(np.ones((1, DIM), dtype=np.float32))
    assert problem(http.post(f"/query?k={k}", content=body), 400).startswith(
        "Expected k to be a number from 1"
    )


def test_vectors_of_other_precision_and_order_are_taken(http, datastore):
    vectors = datastore.embedder.embed(SENTENCES)
    expected = zipped(http.post("/query?k=4", content=npy(vectors)).content)
    for other in (vectors.astype(np.float64), vectors.astype(">f4"), np.asfortranarray(vectors)):
        assert np.array_equal(
            zipped(http.post("/query", content=npy(other)).content)["indices"], expected["indices"]
        )


def test_addresses_methods_and_types_that_are_none(http):
    assert problem(http.get("/v2/search"), 404).startswith("There is nothing at this address.")
    assert problem(http.get("/health/"), 404)
    for page in ("/docs", "/redoc"):
        assert problem(http.get(page), 404)
    assert problem(http.get("/v1/search"), 405) == "This address answers another method."
    assert problem(http.delete("/query"), 405)
    assert problem(http.post("/v1/search", content=b"{}"), 415).startswith(
        "Expected a body with 'Content-Type:"
    )
    for kind in ("text/plain", "application/jsonp", "application/x-www-form-urlencoded", "\xe9"):
        response = http.post("/v1/search", content=b"{}", headers={"content-type": kind.encode("latin-1")})
        assert problem(response, 415)
    assert problem(http.post("/query?k=1", content=b"x", headers={"content-type": "text/plain"}), 415)


# --------------------------------------------------------------------------------- who may ask


def test_other_computers_need_a_token(datastore):
    for host in ("0.0.0.0", "", "::", "192.168.1.7", "example.org"):
        with pytest.raises(ConfigError, match="expected a token that keeps strangers out, got none"):
            service.server(service.Library([datastore]), host=host)
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        service.check_token(host, None)
    for token in ("short", "with a blank in the middle", "ä" * 20, ""):
        with pytest.raises(ConfigError, match="A token has at least 16 visible ASCII characters"):
            service.check_token("127.0.0.1", token)
    assert main(["serve", "factbook", "--host", "0.0.0.0", "--port", "0"]) == 2


def test_a_token_is_asked_for_everywhere_but_at_health(datastore):
    with serving(datastore, token=TOKEN) as address, asking(address) as http:
        assert http.get("/health").json() == {"status": "ok"}
        good = f"Bearer {TOKEN}".encode()
        assert http.post("/v1/search", json=SEARCH, headers={"authorization": good}).status_code == 200
        for path in (
            "/v1/info",
            "/v1/datastores",
            "/openapi.json",
            "/nowhere",
            "/query",
            "/health/../v1/info",
        ):
            for given in (b"", TOKEN.encode(), good[:-1], good + b"x", b"Bearer \xe9", b"Basic " + good[7:]):
                response = http.get(path, headers={"authorization": given} if given else {})
                assert problem(response, 401) == "Expected the header 'Authorization: Bearer TOKEN'."
                assert response.headers["www-authenticate"] == "Bearer"


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(service, "server", lambda library, host, token, names: seen.append(token) or 1 / 0)
    monkeypatch.setattr(Datastore, "open", lambda name: FixtureDatastore())
    monkeypatch.setenv("RETRO_SERVICE_TOKEN", TOKEN)
    file = tmp_path / "token"
    file.write_text("another-token-of-some-length\n")
    for arguments in ([], ["--token-file", str(file)]):
        with pytest.raises(ZeroDivisionError):
            main(["serve", "x", *arguments])
    assert seen == [TOKEN, "another-token-of-some-length"]
    assert main(["serve", "x", "--token-file", str(tmp_path / "absent")]) == 2
    assert "Cannot read the token in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["serve", "x", "--token", "on-the-command-line"])


def test_names_that_lead_here_from_elsewhere_are_refused(url, http, datastore):
    for host in (
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "evil.example:8000",
    ):
        sentence = problem(http.get("/health", headers={"host": host}), 421)
        assert sentence.startswith("This computer is not called so.")
    for host in ("localhost:8000", "127.0.0.1", "192.168.1.7:8000", "[::1]:8000"):
        assert http.get("/health", headers={"host": host}).status_code == 200
    assert problem(http.get("/health", headers={"origin": "https://evil.example"}), 403)
    assert http.get("/health", headers={"origin": url}).status_code == 200
    answer = http.options("/v1/search", headers={"origin": url, "access-control-request-method": "POST"})
    assert answer.status_code == 405 and not [name for name in answer.headers if "access-control" in name]
    with serving(datastore, host_names=["search.example.org"]) as address:
        named = {"host": "Search.example.org"}
        assert asking(address).get("/health", headers=named).status_code == 200


def test_beyond_this_computer_nothing_is_described(datastore):
    assert {"/v1/search", "/query"} <= set(describe(datastore, host="127.0.0.1"))
    assert describe(datastore, host="0.0.0.0", token=TOKEN) is None


def describe(datastore, host, token=None):
    with serving(datastore, host=host, token=token) as address:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = asking(address).get("/openapi.json", headers=headers)
    return answer.json()["paths"] if answer.status_code == 200 else None


def test_one_line_a_request_without_what_was_asked(http, caplog):
    with caplog.at_level(logging.INFO, "indexing.service"):
        http.post("/v1/search", json={"texts": ["SECRET words"]})
        http.get("/SECRET/path%0Aforged line?SECRET=1")
        http.get("/v1/info?datastore=SECRET")
        deadline = time.monotonic() + 2
        while len(caplog.records) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3 and "SECRET" not in "".join(lines) and "\n" not in "".join(lines)
    assert lines[0].startswith("127.0.0.1 POST /v1/search 200, ") and lines[1].split()[1] == "GET"
    assert " 404, " in lines[1]


# ------------------------------------------------------------------------- how much, how long

QUICK = Limits(seconds=0.3, idle_seconds=0.25, workers=1, waiting=1, connections=7)


def connect(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5)


def test_a_large_body_is_refused_while_it_comes(url, http):
    refused = "A body may have 1,000,000 bytes. Send several requests."
    json_type = {"content-type": "application/json"}
    fits = b" " * (1_000_000 - 20) + b'{"texts": ["bees"]} '
    assert len(fits) == 1_000_000
    assert http.post("/v1/search", content=fits, headers=json_type).status_code == 200
    assert problem(http.post("/v1/search", content=fits + b" ", headers=json_type), 413) == refused
    assert problem(http.post("/v1/search", content=iter([fits, b" "]), headers=json_type), 413) == refused
    with connect(url) as connection:  # refused by its head alone
        connection.sendall(b"POST /query HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def answer_to(connection: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def test_a_body_that_does_not_come_is_not_waited_for(datastore):
    with serving(datastore, limits=QUICK) as address, connect(address) as connection:
        began = time.monotonic()
        connection.sendall(b"POST /query HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nx")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert 0.2 < time.monotonic() - began < 2
        answer_to(connection)  # and the connection is closed soon
        assert time.monotonic() - began < 3


def drip(connection: socket.socket, seconds: float) -> float:
    """Send a head byte by byte; the seconds until the other side hung up, or `seconds`."""
    began = time.monotonic()
    connection.settimeout(0.02)
    connection.sendall(b"GET /health HTTP/1.1\r\nx: ")
    while (passed := time.monotonic() - began) < seconds:
        try:
            connection.sendall(b"x")
            if connection.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return passed


def test_a_head_that_drips_is_cut_off_and_others_are_served_meanwhile(datastore, monkeypatch):
    with serving(datastore, limits=QUICK) as address:
        slow = [connect(address) for _ in range(QUICK.connections - 2)]
        for connection in slow:
            connection.sendall(b"GET /health HTTP/1.1\r\nx: ")
        assert asking(address).get("/health").status_code == 200
        assert 0.1 < drip(slow[0], 3) < 2
        for connection in slow:
            connection.close()
    # Negative control: uvicorn's own connections wait for as long as bytes come.
    monkeypatch.setattr(service, "_Protocol", H11Protocol)
    with serving(datastore, limits=QUICK) as address, connect(address) as connection:
        assert drip(connection, 0.8) >= 0.8


def test_more_connections_than_allowed_are_dropped(datastore):
    with serving(datastore, limits=Limits(connections=7)) as address:
        held = [connect(address) for _ in range(12)]
        for connection in held[7:]:
            assert answer_to(connection) == b""
        for connection in held[:7]:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        for connection in held:
            connection.close()


def test_an_answer_that_nobody_takes_is_dropped(datastore):
    # A loopback connection takes some megabytes unread, so a hundred answers are asked for at once.
    body = npy(np.ones((64, DIM), dtype=np.float32))
    ask = b"POST /query?k=100 HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with (
        serving(datastore, limits=Limits(seconds=0.3, idle_seconds=0.3)) as address,
        connect(address) as connection,
    ):
        threading.Thread(target=lambda: _send_all(connection, ask * 100), daemon=True).start()
        time.sleep(1)
        received = answer_to(connection)
        whole = received.count(b"HTTP/1.1 200 OK")
        assert 0 < whole < 100
        assert asking(address).get("/health").status_code == 200


def _send_all(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        connection.sendall(data)


class SlowDatastore(FixtureDatastore):
    """Each search waits for `go`."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.searching = 0

    def nearest_vectors(self, vectors, k):
        self.searching += 1
        assert self.go.wait(20)
        return super().nearest_vectors(vectors, k)


def test_slow_answers_are_given_up_and_too_many_are_asked_back():
    datastore = SlowDatastore()
    body = (FIXTURES / "request_body.npy").read_bytes()
    head = b"POST /query?k=3 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    limits = Limits(seconds=0.6, workers=1, waiting=1)
    with serving(datastore, limits=limits) as address:
        connections = [connect(address) for _ in range(4)]
        began = time.monotonic()
        for connection in connections:
            connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        answers = [answer_to(connection) for connection in connections]
        assert time.monotonic() - began < 3
        for connection in connections:
            connection.close()
        late, many = (
            b"The answer took longer than 0.6 s. Ask for less.",
            b"Too many requests at once. Ask again in",
        )
        assert [sum(sentence in answer for answer in answers) for sentence in (late, many)] == [2, 2]
        assert all(answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in answer for answer in answers)
        # The one that was begun still has the only worker; the one that waited has left.
        assert datastore.searching == 1
        datastore.go.set()
        answer = asking(address).post("/query?k=3", content=body)
        while answer.status_code == 503:
            answer = asking(address).post("/query?k=3", content=body)
        assert answer.status_code == 200


def test_an_error_of_our_own_is_logged_and_not_told(caplog):
    class Broken(FixtureDatastore):
        def nearest_vectors(self, vectors, k):
            raise ZeroDivisionError("/home/keeper/datastores/secret")

    with serving(Broken()) as address:
        body = (FIXTURES / "request_body.npy").read_bytes()
        response = asking(address).post("/query?k=3", content=body)
        assert (
            problem(response, 500) == "The service met an error of its own. Its keeper finds it in the log."
        )
        assert asking(address).get("/health").status_code == 200
    assert "ZeroDivisionError" in caplog.text


def test_a_datastore_that_vanishes_is_not_answered_from_memory(tokenizer, caplog):
    import shutil

    embedder = HashingEmbedder(dim=DIM)
    list(build("gone", [Document("a", "A", SENTENCES[0], "x")], tokenizer, embedder, chunk_size=M))
    datastore = Datastore.open("gone", embedder=embedder)
    with serving(datastore) as address:
        assert asking(address).post("/v1/search", json=SEARCH).status_code == 200
        shutil.rmtree(datastore.path)
        sentence = problem(asking(address).post("/v1/search", json=SEARCH), 503)
        assert sentence == "The datastore cannot be read now. Its keeper finds the reason in the log."
    assert str(datastore.path) in caplog.text


# ------------------------------------------------------------------------------- the command line


def test_ctrl_c_stops_cleanly():
    code = (
        "import sys; sys.path.insert(0, 'tests')\nfrom fakes import HashingEmbedder\n"
        "from indexing import datastore\nfrom indexing.build import build\n"
        "from indexing.cli import main\nfrom indexing.corpus import Document\n"
        "from indexing.tokenizer import train_byte_level_bpe\n"
        "tokenizer = train_byte_level_bpe(['a b c'], 300, 'tiny')\n"
        "datastore.open_embedder = HashingEmbedder\n"
        "list(build('x', [Document('a', 'A', 'a b c', 'x')], tokenizer, HashingEmbedder()))\n"
        "sys.exit(main(['serve', 'x', '--port', '0']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = process.stdout.readline()
    assert line.startswith("serving x at http://127.0.0.1:") and line.endswith("(Ctrl-C stops)\n")
    address = line.split()[3]
    assert asking(address).get("/health").status_code == 200
    assert asking(address).post("/v1/search", json={"texts": ["SECRET a"]}).status_code == 200
    process.send_signal(2)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130 and "Traceback" not in errors and "SECRET" not in errors
    assert "POST /v1/search 200, " in errors and errors.splitlines()[-1].startswith("stopped")


def test_nprobe_is_kept_for_the_index(tokenizer, monkeypatch):
    list(build("probed", [Document("a", "A", SENTENCES[0], "x")], tokenizer, HashingEmbedder(), chunk_size=M))
    monkeypatch.setattr("indexing.datastore.open_embedder", lambda name: HashingEmbedder())
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: None)  # as when it was stopped
    assert main(["serve", "probed", "--port", "0", "--nprobe", "37"]) == 130
    assert Datastore.open("probed").index_settings().nprobe == 37
    assert main(["serve", "probed", "--port", "0"]) == 130
    assert Datastore.open("probed").index_settings().nprobe == 37
    assert main(["serve", "probed", "--port", "0", "--nprobe", "-1"]) == 2


def test_the_documentation_asks_what_is_answered(url):
    page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8").replace("http://127.0.0.1:8000", url)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, "docs/service.md", "exec"), names)
    assert names["hits"][0]["distance"] <= names["hits"][1]["distance"] and names["library"].name == "notes"
    asked = re.findall(r"^curl (\S+)(?: -H '(\S+): (\S+)' \\\n +-d '(.*)')?$", page, flags=re.MULTILINE)
    assert len(asked) == 2
    for address, field, value, body in asked:
        method = "POST" if body else "GET"
        response = httpx.request(method, address, content=body, headers={field: value} if field else {})
        assert response.status_code == 200
    for path in re.findall(r"^\| `(?:GET|POST) (/[a-z0-9/.]+)", page, flags=re.MULTILINE):
        assert httpx.get(url + path).status_code in (200, 405)
    limits, client = Limits(), ClientLimits()
    for number in (
        f"{limits.body_bytes:,} bytes", f"| {service.MAX_TEXTS} of at most {service.MAX_TEXT_BYTES:,} bytes",
        f"`k` at most {service.MAX_K}", f"at most {service.MAX_ROWS:,} neigh", f"| {limits.seconds:g} s from",
        f"| {limits.connections}; one", f"after {limits.idle_seconds:g} s |", f"| {limits.workers} at once",
        f"and {limits.waiting} waiting", f"waits {client.connect_seconds:g} s for a connection",
        f"{client.read_seconds:g} s for a sign of life and {client.seconds:g} s in all",
        f"at once for {client.rest_seconds:g} s",
    ):  # fmt: skip
        assert number in page, number


def test_a_port_that_is_taken_is_said(capsys):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match="Cannot listen on port"),
    ):
        service.listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="A port is a number from 0 to 65535, got 65536"):
        service.listen("127.0.0.1", 65536)
    for host in ("no such host", "x" * 300):
        with pytest.raises(ConfigError, match="Cannot listen on port 0 of"):
            service.listen(host, 0)


# ------------------------------------------------------------------------------------- fuzzing

ODD_VALUES = [
    None, True, 0, -1, 1e400, 10**30, 0.5, "", " ", "\ud800", "\x00", "é" * 5000, "a" * 9000, [], {}, [[]],
    [None], {"a": 1}, "'; DROP TABLE", "<script>", "../../etc/passwd", [[[[1]]]], ["\udfff\ud800"], 2**63,
]  # fmt: skip
ODD_HEADERS = [
    ("content-type", b"application/json; charset=\xff"), ("content-type", b"multipart/form-data"),
    ("content-encoding", b"gzip"), ("accept", b"\xff"), ("cookie", b"\x80=\x80"), ("x" * 300, b"y" * 3000),
    ("range", b"bytes=0-1"), ("expect", b"100-continue"), ("authorization", b"Basic \xff"),
    ("x-forwarded-for", b"\xff"), ("x-http-method-override", b"DELETE"), ("origin", b"null"),
    ("origin", b"\xff"), ("te", b"trailers"), ("upgrade", b"websocket"), ("connection", b"upgrade"),
]  # fmt: skip
PATHS = [
    "/query", "/query?k=3", "/query?k=\x7f", "/query?k=%ff", "/query?k=3&k=x", "/v1/search", "/v1/retrieve",
    "/v1/info", "/v1/info?datastore=%00", "/v1/info?datastore=%ed%a0%80", "/v1/datastores", "/health",
    "/openapi.json", "/%00", "/v1/../query", "//", "/v1/search?%ff=%ff", "/..%2f..%2fetc/passwd",
    "/" + "x" * 3000,
]  # fmt: skip


def random_json(rng: random.Random) -> bytes:
    value = {
        "texts": [rng.choice(SENTENCES) for _ in range(rng.randint(1, 3))],
        "chunks": [[rng.randint(0, 399) for _ in range(M)] for _ in range(rng.randint(1, 3))],
        "k": rng.randint(1, 9),
        "datastore": rng.choice([None, "notes"]),
        "retriever": rng.choice([None, "dense", "bm25", "hybrid-rerank"]),
    }
    for field in (
        rng.choice(["texts", "chunks"]),
        *rng.sample(["k", "datastore", "retriever"], rng.randint(0, 3)),
    ):
        del value[field]
    for _ in range(rng.choice([0, 0, 1, 2])):
        at = rng.choice([*value, "other", "\ud800"])
        inner = value.get(at)
        if isinstance(inner, list) and inner and rng.random() < 0.5:
            inner[rng.randrange(len(inner))] = copy.deepcopy(rng.choice(ODD_VALUES))
        else:
            value[at] = copy.deepcopy(rng.choice(ODD_VALUES))
    return json.dumps(value).encode()


def random_array(rng: random.Random) -> bytes:
    odd_shapes = [(DIM,), (1, 1, DIM), (0, DIM), (2, 0), (), (300, DIM)]
    odd_types = ["<i8", "|b1", "<c8", "<U3", "|S0", "<M8[s]"]
    shape = rng.choice([(rng.randint(1, 9), DIM), (rng.randint(1, 9), DIM), rng.choice(odd_shapes)])
    dtype = rng.choice(["<f4", "<f2", "<f8", ">f4", "<f4", rng.choice(odd_types)])
    array = np.random.default_rng(rng.randrange(1 << 30)).normal(size=shape).astype("<f4")
    if rng.random() < 0.3 and array.size:
        array.flat[rng.randrange(array.size)] = rng.choice([np.nan, np.inf, 3e38, -0.0, 1e-45])
    with np.errstate(all="ignore"):
        return npy(array.astype(dtype))


def random_request(rng: random.Random) -> dict:
    """A request that is nearly right, or far from it."""
    body = rng.choice([random_json, random_array])(rng)
    spoil = rng.random()
    if spoil < 0.15 and body:
        place = rng.randrange(len(body))
        body = body[:place] + bytes([rng.randrange(256)]) + body[place + 1 :]
    elif spoil < 0.3:
        body = body[: rng.randrange(len(body) + 1)]
    elif spoil < 0.4:
        body = rng.randbytes(rng.randrange(3000))
    elif spoil < 0.45:
        body = header("".join(rng.choice("{}()[]'\":,<f4 0123456789shapedcrtonfle\n\\") for _ in range(200)))
    is_json = body[:1] == b"{"
    path = rng.choice(["/v1/search", "/v1/retrieve"] if is_json else ["/query?k=2", "/query"])
    headers = [("content-type", b"application/json")] if is_json else []
    method = "POST"
    if rng.random() < 0.15:
        path = rng.choice(PATHS)
    if rng.random() < 0.1:
        method = rng.choice(["GET", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO"])
    if rng.random() < 0.1:
        headers = [*headers, rng.choice(ODD_HEADERS)]
    return {"method": method, "url": path, "content": body, "headers": headers}


def fuzz(url: str, count: int, seed: int) -> tuple[dict[int, int], list[dict]]:
    """How often each status came, and the requests that ended in an error of the service or none at all."""
    rng = random.Random(seed)
    statuses: dict[int, int] = {}
    failed = []
    with asking(url) as client:
        for _ in range(count):
            request = random_request(rng)
            try:
                response = client.request(**request)
            except httpx.InvalidURL:
                continue
            except httpx.HTTPError:
                failed.append(request)
                continue
            status = response.status_code
            statuses[status] = statuses.get(status, 0) + 1
            if status >= 500:
                failed.append(request)
            elif status >= 400 and request["method"] != "HEAD":
                sentence = problem(response, status)
                assert 0 < len(sentence) <= 400 and "Traceback" not in sentence and "/retro" not in sentence
    return statuses, failed


def test_bad_requests_never_end_in_an_error_of_the_service(url, monkeypatch):
    statuses, failed = fuzz(url, 250, seed=1)
    assert not failed and statuses[200] > 20 and statuses[400] > 20 and statuses[422] > 20, statuses
    # Negative control: the same requests find what numpy.load alone does with them.
    monkeypatch.setattr(wire, "parse_array", lambda body: np.load(io.BytesIO(body), allow_pickle=False))
    assert fuzz(url, 250, seed=1)[1]


@pytest.mark.slow
def test_many_bad_requests_never_end_in_an_error_of_the_service(url):
    statuses, failed = fuzz(url, 8000, seed=2)
    assert not failed and sum(statuses.values()) >= 5000 and statuses[200] > 500, statuses


@pytest.mark.slow
def test_noise_in_place_of_http_is_survived(url):
    rng = random.Random(3)
    good = b"POST /query?k=2 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello"
    for _ in range(1500):
        noise = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            noise[rng.randrange(len(noise))] = rng.randrange(256)
        with connect(url) as connection:
            _send_all(connection, bytes(noise[: rng.randint(1, len(noise))]))
            connection.shutdown(socket.SHUT_WR)
            assert b" 500 " not in answer_to(connection)[:40]
    assert asking(url).get("/health").status_code == 200
