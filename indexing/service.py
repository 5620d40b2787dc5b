"""A retrieval service over HTTP: the reference's wire format and a JSON API, see docs/service.md.

    GET  /health           whether anybody is there
    POST /query?k=K        vectors -> ids, distances and vectors, in the reference's format, see `wire`
    GET  /v1/info          limits, and what one datastore was made with
    GET  /v1/datastores    what is served
    POST /v1/search        texts -> chunks with text, continuation, origin and distance
    POST /v1/retrieve      chunks of token ids, or texts -> neighbours as tokens

Whoever may connect may ask; nothing can be changed. A request is refused in one sentence (problem+json, 4xx)
before it costs anything: `_Guard` reads at most `Limits.body_bytes`, and gives up after `Limits.seconds`.
Each request is answered by one snapshot of a datastore, and the next one by a newer version if there is one.

This module and no other imports FastAPI and uvicorn; import it where a service starts.
"""

import asyncio
import hmac
import ipaddress
import json
import logging
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from indexing import wire
from indexing.bm25 import WordsIndexed
from indexing.datastore import Datastore
from indexing.errors import ConfigError, DatastoreError, InputError, MismatchError
from indexing.neighbours import DRAWN, NO_CHUNK, SQUARED_L2, Neighbours
from indexing.retrievers import DEFAULT_RETRIEVER, Lookup, allowed_chunks, open_lookup

API_VERSION = 1
MAX_TEXTS = 64  # texts or chunks of a request
MAX_TEXT_BYTES = 8192
MAX_K = 100
MAX_DOCUMENTS = 1000  # to look in, or to leave out
MAX_ROWS = MAX_TEXTS * MAX_K  # neighbours of an answer
MIN_TOKEN = 16  # characters of a bearer token
# The reference's client sends vectors of length 1; beyond this a squared distance is no float32.
_MAX_COMPONENT = 1e6
# Answered without a token: it says only that somebody is there.
_OPEN_PATHS = ("/health",)
_NOT_JSON = "The body is not valid JSON. Send one object, as docs/service.md shows."
_DISTANCE = {"metric": SQUARED_L2, "range": [0, 4], "nearest": "smallest"}
_ORDERS = {SQUARED_L2: "distance, smallest first", DRAWN: "none"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a stranger may cost the process.

    body_bytes    of a request, counted as they come in
    seconds       from a request's head to the last byte handed to the network; less than the client waits
    idle_seconds  that a connection may take to send the head of a request, or to take an answer
    workers       requests computed at once
    waiting       requests that wait for a worker; more are asked to come back
    connections   open at once; more are dropped
    """

    body_bytes: int = 1_000_000
    seconds: float = 8.0
    idle_seconds: float = 10.0
    workers: int = 2
    waiting: int = 32
    connections: int = 200


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this computer only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_token(host: str, token: str | None) -> None:
    """Raises ConfigError if `host` is open to others and nothing, or nothing good, keeps them out."""
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"Other computers can reach {host!r}: expected a token that keeps strangers out, got none. "
            "Set RETRO_SERVICE_TOKEN, give --token-file, or serve on 127.0.0.1."
        )
    if token is not None and not re.fullmatch(rf"[\x21-\x7e]{{{MIN_TOKEN},}}", token):
        raise ConfigError(
            f"A token has at least {MIN_TOKEN} visible ASCII characters and no blanks, got {len(token)} "
            "characters. Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError if there can be none."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"A port is a number from 0 to 65535, got {port}. Choose another --port.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"Cannot listen on port {port} of {host!r}: {reason}. Choose another --port, or "
            "stop what listens there."
        ) from error


class Library:
    """The datastores that are served, each at its newest version, and what may look into them.

    retrievers  written forms, see `retrievers.RETRIEVERS`; the first is used where a request names none

    Raises ConfigError for two datastores of one name or none, InputError for a form that is none.
    """

    def __init__(self, datastores: Sequence[Datastore], retrievers: Sequence[str] = (DEFAULT_RETRIEVER,)):
        self.names = [datastore.name for datastore in datastores]
        self.retrievers = list(retrievers)
        if len(set(self.names)) < len(self.names) or not self.names:
            raise ConfigError(
                f"Expected datastores of different names, got {', '.join(self.names) or 'none'}."
            )
        self._shelves = {datastore.name: self._shelf(datastore) for datastore in datastores}
        self._lock = threading.Lock()

    def prepare(self) -> Iterator[WordsIndexed]:
        """Load and make what the first request would wait for, as events where it takes long."""
        for shelf in self._shelves.values():
            for lookup in shelf.lookups.values():
                yield from lookup.prepare()
                lookup.ranker.rank(["The first question need not wait."], 1)

    def newest(self, name: str | None = None) -> "Shelf":
        """What to answer one request with. Raises `_Refused` (404) for a name that is not served, and what
        `Datastore.current` does."""
        name = self.names[0] if name is None else name
        if name not in self._shelves:
            raise _Refused(404, "No datastore of this name is served here. GET /v1/datastores lists them.")
        with self._lock:  # so that a new version is opened once
            shelf = self._shelves[name]
            newest = shelf.datastore.current()
            if newest is not shelf.datastore:
                shelf = self._shelves[name] = self._shelf(newest)
            return shelf

    def _shelf(self, datastore: Datastore) -> "Shelf":
        return Shelf(datastore, {form: open_lookup(form, datastore) for form in self.retrievers})


@dataclass(frozen=True)
class Shelf:
    """One version of a datastore and, by written form, what looks into it."""

    datastore: Datastore
    lookups: dict[str, Lookup]

    def lookup(self, form: str | None) -> tuple[str, Lookup]:
        """The retriever that a request names, and its form. Raises InputError for one that is not served."""
        form = next(iter(self.lookups)) if form is None else form
        if form not in self.lookups:
            raise InputError(f"Expected one of the retrievers served here: {', '.join(self.lookups)}.")
        return form, self.lookups[form]


def server(
    library: Library,
    host: str,
    token: str | None = None,
    host_names: Sequence[str] = (),
    limits: Limits = Limits(),
) -> uvicorn.Server:
    """A server of the datastores of `library`, the first of which answers where a request names none.

    host        the address it will listen on: run it with `server.run(sockets=[listen(host, port)])`
    token       bearer token that every request but /health must carry; None only where `host` is loopback
    host_names  names that requests may call this computer by, beside addresses and localhost

    Raises what `check_token` does.
    """
    check_token(host, token)
    application = _Guard(
        _application(library, limits, describe=is_loopback(host)), token, (host, *host_names), limits
    )

    class Protocol(_Protocol):
        idle_seconds = limits.idle_seconds
        busy_seconds = limits.seconds + limits.idle_seconds
        max_connections = limits.connections

    return uvicorn.Server(
        uvicorn.Config(
            application,
            http=Protocol,
            ws="none",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            log_level="critical",  # the guard catches and logs what goes wrong
            h11_max_incomplete_event_size=16_384,
            timeout_graceful_shutdown=3,
        )
    )


# ------------------------------------------------------------------------------------ what is asked


def _check_text(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # JSON can spell half a pair
        raise ValueError("a text has characters that are none, lone surrogates") from None
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"a text may have {MAX_TEXT_BYTES:,} bytes, this one has {size:,}")
    if not text.strip():
        raise ValueError("a text to look for is not empty")
    return text


Text = Annotated[str, AfterValidator(_check_text)]
DocumentId = Annotated[str, Field(max_length=MAX_TEXT_BYTES)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    datastore: Annotated[str, Field(max_length=255)] | None = Field(
        None, description="its name; the first if null"
    )
    retriever: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="its written form; the first if null"
    )
    k: int = Field(2, ge=1, le=MAX_K, description="neighbours of each")
    only: list[DocumentId] = Field(
        [], max_length=MAX_DOCUMENTS, description="ids of the documents to look in; empty for all"
    )
    exclude: list[DocumentId] = Field(
        [], max_length=MAX_DOCUMENTS, description="ids of documents to leave out"
    )


class SearchQuery(_Query):
    texts: list[Text] = Field(min_length=1, max_length=MAX_TEXTS)


class RetrieveQuery(_Query):
    chunks: list[list[TokenId]] | None = Field(
        None,
        min_length=1,
        max_length=MAX_TEXTS,
        description="token ids of whole chunks",
    )
    texts: list[Text] | None = Field(None, min_length=1, max_length=MAX_TEXTS)
    first_chunk: list[TokenId] | None = Field(
        None, description="token ids of the first chunk of the text that all `chunks` are of, if it is known"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> "RetrieveQuery":
        if (self.chunks is None) == (self.texts is None):
            raise ValueError("give either chunks or texts")
        if self.chunks is None and self.first_chunk is not None:
            raise ValueError("first_chunk goes with chunks")
        return self


# --------------------------------------------------------------------------------- what is answered


def _application(library: Library, limits: Limits, describe: bool) -> FastAPI:
    """The routes. `describe`: whether /openapi.json tells about them; there are no pages that do."""
    app = FastAPI(
        title="RETRO retrieval service",
        version=str(API_VERSION),
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if describe else None,
        redirect_slashes=False,
    )
    work = _Work(limits)

    @app.get("/health")
    async def health() -> Response:
        return _json_response({"status": "ok"})

    @app.post("/query")
    async def query(request: Request, k: str = "4") -> Response:
        num_neighbours = _parse_k(k)
        body = await request.body()
        answer = await work.run(lambda: _answer_query(library.newest().datastore, body, num_neighbours))
        return Response(answer, media_type="application/zip")

    @app.get("/v1/info")
    async def info(datastore: str | None = None) -> Response:
        return _json_response(await work.run(lambda: _info(library, datastore, limits)))

    @app.get("/v1/datastores")
    async def datastore_list() -> Response:
        return _json_response(
            await work.run(lambda: [_facts(library.newest(name).datastore) for name in library.names])
        )

    @app.post("/v1/search")
    async def search(query: SearchQuery) -> Response:
        return Response(
            await work.run(lambda: _dump(_search(library.newest(query.datastore), query))),
            media_type="application/json",
        )

    @app.post("/v1/retrieve")
    async def retrieve(query: RetrieveQuery) -> Response:
        return Response(
            await work.run(lambda: _dump(_retrieve(library.newest(query.datastore), query))),
            media_type="application/json",
        )

    @app.exception_handler(_Refused)
    async def refused(_: Request, error: _Refused) -> Response:
        return error.response()

    @app.exception_handler(InputError)
    async def wrong_input(_: Request, error: InputError) -> Response:
        return _problem(400, str(error))

    @app.exception_handler(MismatchError)
    async def mismatch(_: Request, error: MismatchError) -> Response:
        return _problem(409, str(error))

    @app.exception_handler(DatastoreError)
    async def unreadable(_: Request, error: DatastoreError) -> Response:
        # The sentence may name folders of this computer.
        _log.error("a datastore cannot be read: %s", error)
        return _problem(503, "The datastore cannot be read now. Its keeper finds the reason in the log.")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return _problem(400, _NOT_JSON)
        field = ".".join(str(part) for part in first["loc"][1:])[:40] or str(first["loc"][0])
        return _problem(422, f"{field}: {first['msg'].removeprefix('Value error, ')[:160]}.")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        sentences = {
            400: _NOT_JSON,
            404: "There is nothing at this address. Ask /v1/info, /v1/datastores, /v1/search, /v1/retrieve.",
            405: "This address answers another method.",
        }
        detail = sentences.get(error.status_code, HTTPStatus(error.status_code).phrase)
        return _problem(error.status_code, detail, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return _problem(500, "The service met an error of its own. Its keeper finds it in the log.")

    return app


def _parse_k(text: str) -> int:
    # Not int(): it takes "１", "+1" and "1_0", and tires of long digits.
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text, re.ASCII) or int(text) > MAX_K:
        raise InputError(f"Expected k to be a number from 1 to {MAX_K}. Ask for fewer neighbours.")
    return int(text)


def _answer_query(datastore: Datastore, body: bytes, k: int) -> bytes:
    """The reference's /query: a .npy of vectors -> ZIP of distances, indices and embeddings."""
    vectors = _parse_vectors(body, datastore.embeddings.shape[1], k)
    ids, distances = datastore.nearest_vectors(vectors, k)
    # The reference's client takes -1 for a row, so what was not found has no column.
    found = int((ids != NO_CHUNK).sum(axis=1).min())
    ids, distances = ids[:, :found], distances[:, :found]
    embeddings = np.asarray(datastore.embeddings[ids.reshape(-1)]).reshape(*ids.shape, vectors.shape[1])
    return wire.pack_answer(distances, ids, embeddings)


def _parse_vectors(body: bytes, dim: int, k: int) -> np.ndarray:
    """-> (n, dim) float32. Raises InputError if the body is anything else."""
    try:
        vectors = wire.parse_array(body)
    except ValueError as error:
        raise InputError(
            f"Expected the bytes that np.save writes for float32 (n, {dim}), but {error}. Send such an array."
        ) from error
    if vectors.dtype.kind != "f" or vectors.ndim != 2 or vectors.shape[1] != dim or not len(vectors):
        raise InputError(
            f"Expected vectors as float32 (n, {dim}), got {vectors.dtype.name} {list(vectors.shape)}. Embed "
            "with the datastore's own embedder."
        )
    if len(vectors) * k > MAX_ROWS:
        raise InputError(
            f"An answer has at most {MAX_ROWS:,} neighbours, but {len(vectors):,} vectors with {k} each were "
            "asked for. Ask in several requests."
        )
    vectors = vectors.astype(np.float64)  # half precision has no such large numbers to compare with
    if not (np.abs(vectors) <= _MAX_COMPONENT).all():  # false for NaN too
        raise InputError("Some of the vectors are not finite, or are huge. Send vectors of length 1.")
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _facts(datastore: Datastore) -> dict[str, Any]:
    return {
        "name": datastore.name,
        "version": datastore.version,
        "num_documents": datastore.num_documents,
        "num_chunks": len(datastore.chunks),
        "chunk_size": datastore.chunks.chunk_size,
        "fingerprint": datastore.fingerprint,
        "tokenizer": {
            "name": datastore.tokenizer_name,
            "fingerprint": datastore.tokenizer.fingerprint,
            "vocab_size": datastore.tokenizer.vocab_size,
            "pad_id": datastore.tokenizer.pad_id,
        },
        "embedder": {
            "name": _public_name(datastore.embedder_name),
            "fingerprint": datastore.manifest["embedder"]["fingerprint"],
            "dim": datastore.embeddings.shape[1],
        },
        "distance": _DISTANCE,
    }


def _public_name(name: str) -> str:
    """An embedder may be named by its folder on this computer, which is nobody's business."""
    is_plain = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)
    return name if is_plain else re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _info(library: Library, name: str | None, limits: Limits) -> dict[str, Any]:
    datastore = library.newest(name).datastore
    return {
        "api": API_VERSION,
        "retrievers": library.retrievers,
        "limits": {
            "texts": MAX_TEXTS,
            "text_bytes": MAX_TEXT_BYTES,
            "k": MAX_K,
            "documents": MAX_DOCUMENTS,
            "body_bytes": limits.body_bytes,
            "seconds": limits.seconds,
        },
        "datastore": _facts(datastore),
    }


def _search(shelf: Shelf, query: SearchQuery) -> dict[str, Any]:
    """A hit's distance is null where nobody measured it, its score where the order has none."""
    form, lookup = shelf.lookup(query.retriever)
    ranked = lookup.ranker.rank(query.texts, query.k, None, _allowed(shelf, query))
    scores = ranked.scores if ranked.scores is not None else np.full(ranked.ids.shape, np.nan)
    hits = [
        [_hit(shelf.datastore, *found) for found in zip(*row, strict=True) if found[0] != NO_CHUNK]
        for row in zip(ranked.ids.tolist(), _finite(ranked.distances), _finite(scores), strict=True)
    ]
    return {**_answered_by(shelf, form, lookup), "hits": hits}


def _hit(datastore: Datastore, chunk_id: int, distance: float | None, score: float | None) -> dict[str, Any]:
    return {
        "chunk_id": chunk_id,
        **asdict(datastore.provenance(chunk_id)),
        "distance": distance,
        "score": score,
        "text": datastore.text(chunk_id),
        "continuation": datastore.continuation(chunk_id),
    }


def _retrieve(shelf: Shelf, query: RetrieveQuery) -> dict[str, Any]:
    """A neighbour that is missing has the id -1, no distance, no origin, and tokens of padding only."""
    datastore = shelf.datastore
    form, lookup = shelf.lookup(query.retriever)
    allowed = _allowed(shelf, query)
    if query.chunks is not None:
        chunks = _parse_chunks(datastore, query.chunks)
        if query.first_chunk is not None:
            lookup = lookup.for_text(_parse_chunks(datastore, [query.first_chunk])[0])
        found = lookup.retrieve(chunks, query.k, None, allowed)
    else:
        ranked = lookup.ranker.rank(query.texts or (), query.k, None, allowed)
        tokens = datastore.chunks.retrieved_tokens(ranked.ids, datastore.num_continuations)
        found = Neighbours(ranked.ids, ranked.distances, tokens, scores=ranked.scores)
    return {
        **_answered_by(shelf, form, lookup),
        "num_chunks": len(datastore.chunks),
        "tokenizer": datastore.tokenizer.fingerprint,
        "pad_id": datastore.tokenizer.pad_id,
        "ids": found.ids.tolist(),
        "distances": _finite(found.distances),
        "scores": None if found.scores is None else _finite(found.scores),
        "tokens": found.tokens.tolist(),
        "origins": [
            [None if chunk == NO_CHUNK else asdict(datastore.provenance(chunk)) for chunk in row]
            for row in found.ids.tolist()
        ],
    }


def _allowed(shelf: Shelf, query: _Query) -> np.ndarray | None:
    """(N,) bool: the chunks that may be found; None for all. Raises InputError for unknown documents."""
    if not query.only and not query.exclude:
        return None
    return allowed_chunks(shelf.datastore, query.only, query.exclude)


def _answered_by(shelf: Shelf, form: str, lookup: Lookup) -> dict[str, Any]:
    """The beginning of an answer: by which version of what, and what its order means."""
    measure = lookup.ranker.measure
    return {
        "datastore": shelf.datastore.name,
        "version": shelf.datastore.version,
        "retriever": form,
        "measure": measure,
        "order": _ORDERS.get(measure, "score, largest first"),
        "distance": _DISTANCE,
    }


def _finite(values: np.ndarray) -> list[list[float | None]]:
    """(n, k) for JSON, which has no infinity."""
    return [[value if math.isfinite(value) else None for value in row] for row in values.tolist()]


def _parse_chunks(datastore: Datastore, chunks: list[list[int]]) -> np.ndarray:
    """-> (n, m) int64. Raises InputError for another length, or ids that no token has."""
    size, vocabulary = datastore.chunks.chunk_size, datastore.tokenizer.vocab_size
    wrong = next((len(chunk) for chunk in chunks if len(chunk) != size), None)
    if wrong is not None:
        raise InputError(
            f"Expected chunks of {size} token ids, got one of {wrong}. Pad short ones on the right."
        )
    array = np.asarray(chunks, dtype=np.int64)
    if array.max() >= vocabulary:
        raise InputError(
            f"Token id {array.max()} is outside the datastore's vocabulary of {vocabulary}. Send texts if "
            "your tokenizer is another one."
        )
    return array


class _Work:
    """Threads that compute answers, and a bound on how many requests wait for them."""

    def __init__(self, limits: Limits):
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix="retrieval")
        self._most = limits.workers + limits.waiting
        self._unfinished = 0
        self._lock = threading.Lock()

    async def run(self, function: Callable[[], Any]) -> Any:
        """What `function` returns or raises. A request that has gone leaves its turn, but a computation that
        began goes on and counts until it ends."""
        with self._lock:
            if self._unfinished >= self._most:
                raise _Refused(503, "Too many requests at once. Ask again in a second.", {"retry-after": "1"})
            self._unfinished += 1
        future = self._threads.submit(function)
        future.add_done_callback(self._finished)
        return await asyncio.wrap_future(future)

    def _finished(self, _: Future) -> None:
        with self._lock:
            self._unfinished -= 1


def _dump(value: object) -> bytes:
    """JSON in UTF-8; what has no UTF-8, a lone surrogate that somebody sent, stays an escape."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def _json_response(value: object) -> Response:
    return Response(_dump(value), media_type="application/json")


def _problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """RFC 9457."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": sentence}
    return Response(_dump(body), status, headers, media_type="application/problem+json")


class _Refused(Exception):
    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None):
        super().__init__(sentence)
        self._answer = (status, sentence, headers)

    def response(self) -> Response:
        return _problem(*self._answer)


# ------------------------------------------------------------------------------------ who may ask


class _Guard:
    """ASGI around the application: who asks, how much, for how long; and one line in the log."""

    def __init__(self, app: FastAPI, token: str | None, hosts: Sequence[str], limits: Limits):
        self._app = app
        self._authorization = None if token is None else f"Bearer {token}".encode()
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._limits = limits
        # Anything else in an address may be somebody's text, and stays out of the log.
        self._paths = {getattr(route, "path", "") for route in app.routes}

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        began, status, sent = time.monotonic(), 0, 0

        async def counted(message: dict) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_SAFE_HEADERS]
            sent += len(message.get("body", b""))
            await send(message)

        body: bytes | None = None
        try:
            async with asyncio.timeout(self._limits.seconds):
                try:
                    self._check(scope)
                    body = await self._read(scope, receive)
                    await self._app(scope, _replay(body, receive), counted)
                except _Refused as refused:
                    await refused.response()(scope, receive, counted)
        except _Gone:
            return
        except TimeoutError:
            if status:
                raise  # half an answer is cut off, so that it is not taken for one
            if body is None:
                answer = _problem(408, f"The request took longer than {self._limits.seconds:g} s to arrive.")
            else:
                late = f"The answer took longer than {self._limits.seconds:g} s. Ask for less."
                answer = _problem(503, late, {"retry-after": "1"})
            await answer(scope, receive, counted)
        except Exception:
            _log.exception("an error of the service's own")
            if not status:
                await _problem(500, "The service met an error of its own.")(scope, receive, counted)
        finally:
            self._log_line(scope, status, sent, time.monotonic() - began)

    def _check(self, scope: dict) -> None:
        """Raise `_Refused` for a request that has no business here, by its head alone."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        # A page of another site can have its own name lead here (DNS rebinding), but not an address.
        if name not in self._hosts and not _is_address(name):
            raise _Refused(421, "This computer is not called so. Use its address, or start with --host-name.")
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin.partition("://")[2] != host:
            raise _Refused(403, "Pages of other sites may not ask here.")
        if self._authorization is not None and scope["path"] not in _OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._authorization):
                raise _Refused(
                    401, "Expected the header 'Authorization: Bearer TOKEN'.", {"www-authenticate": "Bearer"}
                )
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and scope["path"].startswith("/v1/") and kind != "application/json":
            raise _Refused(415, "Expected a body with 'Content-Type: application/json'.")
        if scope["path"] == "/query" and kind not in ("", "application/octet-stream", "application/x-npy"):
            raise _Refused(415, "Expected a .npy body without a content type, or application/octet-stream.")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 12 or int(length) > self._limits.body_bytes:
            raise self._too_large()

    async def _read(self, scope: dict, receive: Callable) -> bytes:
        """The whole body, counted as it comes in."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self._limits.body_bytes:
                raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> _Refused:
        return _Refused(413, f"A body may have {self._limits.body_bytes:,} bytes. Send several requests.")

    def _log_line(self, scope: dict, status: int, sent: int, seconds: float) -> None:
        path = scope["path"] if scope["path"] in self._paths else "(another address)"
        client = (scope.get("client") or ("unknown", 0))[0]
        _log.info(
            "%s %s %s %s, %d bytes, %.0f ms",
            client, scope["method"][:10], path, status or "given up", sent, 1000 * seconds,
        )  # fmt: skip


class _Gone(Exception):
    """The client has hung up before the request was complete."""


_SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _replay(body: bytes, receive: Callable) -> Callable:
    """The ASGI channel from which the application reads a body that is here already."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> dict:
        return waiting.pop() if waiting else await receive()

    return replayed


class _Protocol(H11Protocol):
    """uvicorn's connection, which is dropped when its client neither asks nor takes the answer in time.

    uvicorn's own timer begins anew with each byte of a request's head, and waits without end for a client
    that does not read.
    """

    idle_seconds: float  # from the connection or the last answer to the next request's whole head
    busy_seconds: float  # from there to the end of the answer
    max_connections: int
    _timer: asyncio.TimerHandle | None = None
    _busy = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Head and body are two packets; the second would wait 40 ms for the first to be acknowledged.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.max_connections:
            transport.abort()
        else:
            self._drop_after(self.idle_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if not self._busy and self.cycle is not None and not self.cycle.response_complete:
            self._busy = True
            self._drop_after(self.busy_seconds)

    def on_response_complete(self) -> None:
        self._busy = False
        self._drop_after(self.idle_seconds)
        super().on_response_complete()  # which may find the next request, already here

    def _drop_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort)
