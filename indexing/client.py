"""Asking a retrieval service: what comes back is checked before anything reads it, and waiting has an end.

    RemoteRetriever        neighbours from our own service's JSON API, tokens included
    RemoteIndexRetriever   neighbours from any server of the reference's format, tokens from a ChunkStore here
    open_remote            "http://127.0.0.1:8000" -> a RemoteRetriever

A call ends within `ClientLimits.seconds`, retries included. After three calls in a row that failed, the next
ones fail at once until `rest_seconds` have passed: a server that is down costs a text no time.
"""

import json
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from indexing import paths, wire
from indexing.beginnings import FIRST_CHUNK
from indexing.chunks import ChunkStore
from indexing.datastore import Provenance
from indexing.embedder import Embedder
from indexing.errors import ConfigError, InputError, MismatchError, RetroError, ServiceError
from indexing.neighbours import NO_CHUNK, SQUARED_L2, Neighbours
from indexing.tokenizer import Tokenizer

# What our service takes in one request.
_TEXTS_AT_ONCE = 64
_ROWS_AT_ONCE = 6400
# Answers that another try may better: too many requests, and servers behind a proxy that are not there.
_PASSING = (429, 502, 503, 504)
_ORIGINS_KEPT = 10_000


@dataclass(frozen=True)
class ClientLimits:
    """Seconds, tries and bytes that a call may take.

    connect_seconds, read_seconds  without a sign of the server
    seconds                        for a whole call with its retries
    retries                        after failures that may pass
    pause_seconds                  before the first retry, about; doubled before the next
    failures, rest_seconds         after so many failed calls in a row, none is tried for so long
    answer_bytes                   the longest answer that is read
    """

    connect_seconds: float = 2.0
    read_seconds: float = 10.0
    seconds: float = 12.0
    retries: int = 2
    pause_seconds: float = 0.2
    failures: int = 3
    rest_seconds: float = 30.0
    answer_bytes: int = 64 << 20


@dataclass(frozen=True)
class RemoteInfo:
    """What a service says of one of its datastores. `version` grows with each change. retrievers: their
    written forms, the one first that answers where none is named"""

    name: str
    version: int
    num_documents: int
    num_chunks: int
    chunk_size: int
    fingerprint: str
    tokenizer_name: str
    tokenizer_fingerprint: str
    vocab_size: int
    pad_id: int
    embedder_name: str
    embedder_fingerprint: str
    dim: int
    retrievers: tuple[str, ...]


class ServiceClient:
    """One service at a fixed address. Safe to use from several threads.

    url    http:// or https:// with host and port; a path is kept, for services behind a proxy
    token  the service's bearer token, sent with every request

    Redirects are not followed, and proxies and passwords of the environment are not used: requests go where
    `url` says. Every method raises ServiceError if the service cannot be reached in time, refuses, or answers
    something that cannot be used; InputError with the service's own sentence if it cannot use the request.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        limits: ClientLimits = ClientLimits(),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        transport: Any = None,
    ):
        import httpx

        self.url = _checked_url(url)
        self._limits, self._clock, self._sleep = limits, clock, sleep
        self._breaker = _Breaker(limits, clock)
        headers = {"accept-encoding": "identity", "user-agent": "retro-explorer"}
        if token is not None:
            if not token.isascii() or not token.isprintable():
                raise ConfigError(
                    "A token has visible ASCII characters only. Check the one for this service."
                )
            headers["authorization"] = f"Bearer {token}"
        self._http = httpx.Client(
            headers=headers, follow_redirects=False, trust_env=False, transport=transport
        )

    def close(self) -> None:
        self._http.close()

    def is_available(self) -> bool:
        """Whether the service says that it is well."""
        try:
            self._send("GET", "/health", largest=1 << 16)
        except (ServiceError, InputError):
            return False
        return True

    def info(self, datastore: str | None = None) -> RemoteInfo:
        """What the datastore of that name, or the service's first one, was made with."""
        params = {} if datastore is None else {"datastore": datastore}
        answer = self._json("GET", "/v1/info", params=params)
        try:
            said = answer["datastore"]
            tokenizer, embedder = said["tokenizer"], said["embedder"]
            return RemoteInfo(
                name=_text(said["name"]),
                version=_count(said["version"]),
                num_documents=_count(said["num_documents"]),
                num_chunks=_count(said["num_chunks"]),
                chunk_size=_count(said["chunk_size"], least=1),
                fingerprint=_text(said["fingerprint"]),
                tokenizer_name=_text(tokenizer["name"]),
                tokenizer_fingerprint=_text(tokenizer["fingerprint"]),
                vocab_size=_count(tokenizer["vocab_size"], least=1),
                pad_id=_count(tokenizer["pad_id"]),
                embedder_name=_text(embedder["name"]),
                embedder_fingerprint=_text(embedder["fingerprint"]),
                dim=_count(embedder["dim"], least=1),
                retrievers=_forms(answer["retrievers"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._unusable(f"/v1/info has no proper {_clause(error)}") from error

    def search(
        self,
        texts: Sequence[str],
        k: int,
        datastore: str | None = None,
        retriever: str | None = None,
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> list[list[dict]]:
        """For each text its hits, nearest first: dicts as docs/service.md lists them. Where no datastore or
        retriever is named, the service's first is taken.

        only, exclude  ids of documents to look in (empty for all), and to leave out
        """
        question = {
            "texts": list(texts), "k": k, "datastore": datastore, "retriever": retriever,
            "only": list(only), "exclude": list(exclude),
        }  # fmt: skip
        answer = self._json("POST", "/v1/search", question)
        hits = answer.get("hits")
        fine = isinstance(hits, list) and len(hits) == len(texts)
        if not fine or not all(isinstance(row, list) and len(row) <= k for row in hits):
            raise self._unusable(f"/v1/search has no hits for {len(texts)} texts")
        try:
            for hit in (hit for row in hits for hit in row):
                for field in ("text", "continuation", "title", "document_id", "source"):
                    _text(hit[field])
                for field in ("chunk_id", "offset"):
                    _count(hit[field])
                for field in ("distance", "score"):
                    if hit[field] is not None:
                        _finite(hit[field])
        except (KeyError, TypeError, ValueError) as error:
            raise self._unusable(f"a hit of /v1/search has no proper {_clause(error)}") from error
        return hits

    def retrieve(
        self,
        chunks: np.ndarray,
        k: int,
        info: RemoteInfo,
        retriever: str | None = None,
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
        first_chunk: np.ndarray | None = None,
    ) -> tuple[Neighbours, dict[int, Provenance]]:
        """chunks (n, m) of token ids of the datastore `info` -> their neighbours, leading axis (n,), and
        where each neighbour's chunk comes from; documents as for `search`. first_chunk (m,): of the text that
        the chunks are of. Raises MismatchError if the tokenizer there has changed."""
        parts, origins = [], {}
        at_once = max(1, min(_TEXTS_AT_ONCE, _ROWS_AT_ONCE // max(k, 1)))
        for start in range(0, len(chunks), at_once):
            rows = chunks[start : start + at_once]
            question = {
                "chunks": rows.tolist(), "k": k, "datastore": info.name, "retriever": retriever,
                "only": list(only), "exclude": list(exclude),
            }  # fmt: skip
            if first_chunk is not None:
                question["first_chunk"] = first_chunk.tolist()
            answer = self._json("POST", "/v1/retrieve", question)
            if answer.get("tokenizer") != info.tokenizer_fingerprint:
                raise MismatchError(
                    f"The service at {self.url} has a datastore {info.name!r} with another tokenizer than "
                    "before. Connect anew."
                )
            try:
                parts.append(_neighbours(answer, len(rows), k, info))
                origins |= _origins(answer, parts[-1].ids)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise self._unusable(f"/v1/retrieve has no proper {_clause(error)}") from error
        if not parts:
            return Neighbours.none((0,), k, 2 * info.chunk_size, info.pad_id), {}
        found = parts[0]
        for part in parts[1:]:
            found = found.followed_by(part)
        return found, origins

    def query(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As the reference's `IndexServiceClient.query`: vectors (n, d) -> distances (n, k') float32, ids
        (n, k') int64 and embeddings (n, k', d) float32, k' <= k as many as the server finds."""
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or not len(vectors):
            raise InputError(f"Expected vectors (n, d) to look up, got shape {list(vectors.shape)}.")
        largest = 4096 + 2 * len(vectors) * k * (12 + 4 * vectors.shape[1])
        data = self._send("POST", "/query", wire.dump_array(vectors), {"k": k}, largest=largest)
        try:
            return wire.unpack_answer(data, *vectors.shape[:1], k, vectors.shape[1])
        except ValueError as error:
            raise self._unusable(f"/query: {error}") from error

    def _json(self, method: str, path: str, value: object = None, params: dict | None = None) -> dict:
        try:
            content = b"" if value is None else json.dumps(value).encode("ascii")
        except ValueError as error:
            raise InputError(f"The request cannot be written as JSON: {error}.") from error
        kind = {"content-type": "application/json"}
        data = self._send(method, path, content, params or {}, kind, self._limits.answer_bytes)
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._unusable(f"{path} is not JSON") from error
        if not isinstance(answer, dict):
            raise self._unusable(f"{path} is not a JSON object")
        return answer

    def _send(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        params: dict | None = None,
        headers: dict | None = None,
        largest: int = 0,
    ) -> bytes:
        """The body of a good answer. Asking changes nothing there, so every request may be repeated."""
        self._breaker.admit(self.url)
        deadline = self._clock() + self._limits.seconds
        reason = ""
        for attempt in range(1 + self._limits.retries):
            if attempt:
                # Between half and all of the pause, so that many clients do not come back together.
                pause = self._limits.pause_seconds * 2 ** (attempt - 1) * random.uniform(0.5, 1)
                if self._clock() + pause >= deadline:
                    break
                self._sleep(pause)
            try:
                data = self._try(method, path, content, params, headers, largest, deadline)
            except _Passing as passing:
                reason = str(passing)
                continue
            except RetroError:
                self._breaker.succeeded()  # it answers, if only to refuse
                raise
            self._breaker.succeeded()
            return data
        self._breaker.failed()
        raise ServiceError(
            f"The retrieval service at {self.url} does not answer: {reason}. Check that it runs and that the "
            "address is right, or go on without retrieval."
        )

    def _try(
        self,
        method: str,
        path: str,
        content: bytes,
        params: dict | None,
        headers: dict | None,
        largest: int,
        deadline: float,
    ) -> bytes:
        """One attempt. Raises `_Passing` for what another one may better."""
        import httpx

        left = max(deadline - self._clock(), 0.01)
        timeout = httpx.Timeout(
            min(self._limits.read_seconds, left), connect=min(self._limits.connect_seconds, left)
        )
        try:
            with self._http.stream(
                method, self.url + path, content=content, params=params, headers=headers, timeout=timeout
            ) as response:
                data = self._read(response, largest, deadline)
                status = response.status_code
        except httpx.ConnectTimeout as error:
            raise _Passing(f"no connection within {self._limits.connect_seconds:g} s") from error
        except httpx.TimeoutException as error:
            raise _Passing(f"nothing came for {self._limits.read_seconds:g} s") from error
        except httpx.ConnectError as error:
            raise _Passing("no connection") from error
        except httpx.TransportError as error:
            raise _Passing("the connection broke off") from error
        except httpx.DecodingError as error:
            raise self._unusable("its encoding is not the one that was asked for") from error
        if status == 200:
            return data
        sentence = _problem_sentence(data)
        if status in _PASSING:
            raise _Passing(f"it says {status}: {sentence}" if sentence else f"it says {status}")
        if status in (401, 403):
            raise ServiceError(
                f"The retrieval service at {self.url} refuses ({status}). Give its token in "
                "RETRO_SERVICE_TOKEN."
            )
        if 400 <= status < 500:
            raise InputError(
                f"The retrieval service at {self.url} cannot use the request ({status}): "
                f"{sentence or 'it does not say why.'}"
            )
        raise self._unusable(f"its status is {status} instead of 200")

    def _read(self, response: Any, largest: int, deadline: float) -> bytes:
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":  # a small packed answer may be a huge one
            raise self._unusable("it is packed, which was not asked for")
        parts, size = [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > largest:
                raise self._unusable(f"it has more than {largest:,} bytes")
            if self._clock() > deadline:
                raise _Passing(f"the answer was not complete after {self._limits.seconds:g} s")
        return b"".join(parts)

    def _unusable(self, what: str) -> ServiceError:
        return ServiceError(
            f"The answer of the retrieval service at {self.url} cannot be used: {what}. Check that the "
            "address is that of a retrieval service of this version."
        )


class RemoteRetriever:
    """A `Retriever` over a service's JSON API: the server decodes, embeds and searches, and sends tokens.

    datastore  its name there; None is the service's first
    retriever  the written form of what looks into it there; None is the service's first
    tokenizer  the one that chunks will be made with
    only       ids of the documents that neighbours may come from; empty for all
    exclude    ids of documents they may not come from

    Raises MismatchError if the datastore was built with another tokenizer, and what `ServiceClient` does.
    `provenance` knows the chunks found last. Safe to use from several threads.
    """

    num_continuations = 1

    def __init__(
        self,
        client: ServiceClient,
        datastore: str | None = None,
        tokenizer: Tokenizer | None = None,
        retriever: str | None = None,
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ):
        self.client = client
        self.info = client.info(datastore)
        self.name = self.info.name
        self.fingerprint = self.info.fingerprint
        if tokenizer is not None and tokenizer.fingerprint != self.info.tokenizer_fingerprint:
            raise MismatchError(
                f"Datastore {self.name!r} at {client.url} was built with the tokenizer "
                f"{self.info.tokenizer_name!r} ({self.info.tokenizer_fingerprint[:8]}), not with "
                f"{tokenizer.name!r} ({tokenizer.fingerprint[:8]}). Choose a datastore built with the same "
                "tokenizer."
            )
        self._retriever, self._only, self._exclude = retriever, tuple(only), tuple(exclude)
        self._first_chunk: np.ndarray | None = None
        self._origins: OrderedDict[int, Provenance] = OrderedDict()
        self._lock = threading.Lock()

    def for_text(self, first_chunk: np.ndarray) -> "RemoteRetriever":
        """See `neighbours.for_text`. The copy and this one remember what was found together."""
        if (self._retriever or self.info.retrievers[0]) != FIRST_CHUNK:
            return self
        mine = copy(self)
        mine._first_chunk = np.asarray(first_chunk)
        return mine

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        """chunks (..., m) int -> Neighbours with leading axes (...), as `Datastore.retrieve`."""
        chunks = np.asarray(chunks)
        m, k = self.info.chunk_size, num_neighbours
        if chunks.shape[-1] != m:
            raise MismatchError(
                f"Datastore {self.name!r} at {self.client.url} has chunks of {m} tokens, but was asked with "
                f"chunks of {chunks.shape[-1]}. Choose a datastore built with the model's chunk size."
            )
        shape = chunks.shape[:-1]
        found, origins = self.client.retrieve(
            chunks.reshape(-1, m), k, self.info, self._retriever, self._only, self._exclude, self._first_chunk
        )
        with self._lock:
            self._origins.update(origins)
            while len(self._origins) > _ORIGINS_KEPT:
                self._origins.popitem(last=False)
        return found.reshape(*shape)

    def provenance(self, chunk_id: int) -> Provenance:
        """Where a chunk that `retrieve` found comes from. Raises InputError for any other."""
        with self._lock:
            if chunk_id not in self._origins:
                raise InputError(
                    f"Chunk {chunk_id} was not among the neighbours found last. Look it up anew."
                )
            return self._origins[chunk_id]


class RemoteIndexRetriever:
    """A `Retriever` over the reference's wire format: embeds here, searches there, reads tokens here.

    chunks     the very chunks that the server's index was made of
    embedder   the one it was made with; `tokenizer` decodes the asking chunks for it

    A row that is not among `chunks` ends in a ServiceError: server and chunks do not belong together.
    """

    num_continuations = 1

    def __init__(self, client: ServiceClient, chunks: ChunkStore, tokenizer: Tokenizer, embedder: Embedder):
        self.client, self.chunks = client, chunks
        self.tokenizer, self.embedder = tokenizer, embedder

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        """chunks (..., m) int -> Neighbours with leading axes (...). A chunk without text has none."""
        chunks = np.asarray(chunks)
        shape, k = chunks.shape[:-1], num_neighbours
        texts = [self.tokenizer.decode(chunk) for chunk in chunks.reshape(-1, chunks.shape[-1])]
        ids = np.full((len(texts), k), NO_CHUNK, dtype=np.int64)
        distances = np.full(ids.shape, np.inf, dtype=np.float32)
        asking = np.flatnonzero([bool(text) for text in texts])
        at_once = max(1, min(_TEXTS_AT_ONCE, _ROWS_AT_ONCE // max(k, 1)))
        for start in range(0, len(asking), at_once):
            rows = asking[start : start + at_once]
            vectors = self.embedder.embed([texts[row] for row in rows])
            near, found, _ = self.client.query(vectors, k)
            present = found >= 0  # other servers answer -1 where there is none
            if (found >= len(self.chunks)).any():
                raise ServiceError(
                    f"The retrieval service at {self.client.url} found chunk {found.max():,} of the "
                    f"{len(self.chunks):,} that are here. Open the chunks that its index was made of."
                )
            columns = slice(0, found.shape[1])
            ids[rows, columns] = np.where(present, found, NO_CHUNK)
            distances[rows, columns] = np.where(present, near, np.inf)
        ids, distances = ids.reshape(*shape, k), distances.reshape(*shape, k)
        tokens = self.chunks.retrieved_tokens(ids, self.num_continuations)
        return Neighbours(ids, distances, tokens, self.chunks.pad_id)


def open_remote(
    address: str,
    tokenizer: Tokenizer | None = None,
    token: str | None = None,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> RemoteRetriever:
    """`http://HOST:PORT`, `http://HOST:PORT#NAME` for one of several datastores, or `…#NAME/FORM` for one of
    several retrievers there, as a retriever.

    token          None takes RETRO_SERVICE_TOKEN's, if there is one
    only, exclude  see `RemoteRetriever`

    Raises what `RemoteRetriever` does.
    """
    token = paths.service_token() if token is None else token
    url, _, place = address.partition("#")
    datastore, _, form = place.partition("/")
    client = ServiceClient(url, token)
    return RemoteRetriever(client, datastore or None, tokenizer, form or None, only, exclude)


class _Passing(Exception):
    """A failure that another try may better; a clause for the message."""


class _Breaker:
    """Counts calls that failed in a row, and keeps the next ones from trying for a while."""

    def __init__(self, limits: ClientLimits, clock: Callable[[], float]):
        self._limits, self._clock = limits, clock
        self._failures = 0
        self._open_until = 0.0
        self._lock = threading.Lock()

    def admit(self, url: str) -> None:
        """Raises ServiceError while resting. After the rest one call tries, and the others rest on."""
        with self._lock:
            if self._failures < self._limits.failures:
                return
            left = self._open_until - self._clock()
            if left > 0:
                raise ServiceError(
                    f"The retrieval service at {url} did not answer {self._failures} times in a row and is "
                    f"not asked for another {left:.0f} s. Check that it runs, or go on without retrieval."
                )
            self._open_until = self._clock() + self._limits.rest_seconds

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._open_until = self._clock() + self._limits.rest_seconds

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0


def _checked_url(url: str) -> str:
    """The address without a slash at its end. Raises ConfigError for anything but host, port and path."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises for a port that is none
    except ValueError:
        parts = urlsplit("")
    extra = parts.username or parts.password or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or extra:
        raise ConfigError(
            "Expected the address of a retrieval service like http://127.0.0.1:8000, without user name or "
            f"question mark, got {'one with a user name' if '@' in url else repr(url[:100])}."
        )
    return url.rstrip("/")


def _neighbours(answer: dict, n: int, k: int, info: RemoteInfo) -> Neighbours:
    """The checked part of an answer of /v1/retrieve. Raises ValueError naming the field that is wrong."""
    ids = _whole_numbers(answer, "ids", (n, k), NO_CHUNK, _count(answer["num_chunks"]) - 1)
    missing = ids == NO_CHUNK
    if (missing[:, :-1] & ~missing[:, 1:]).any():
        raise ValueError("order of ids")
    distances = _numbers(answer, "distances", (n, k), np.inf)
    scores = None if answer["scores"] is None else _numbers(answer, "scores", (n, k), -np.inf)
    measure = _text(answer["measure"])
    ordered_by = distances if measure == SQUARED_L2 else scores
    if ordered_by is not None and (np.isfinite(ordered_by) == missing).any():
        raise ValueError("scores" if ordered_by is scores else "distances")
    if answer["pad_id"] != info.pad_id:
        raise ValueError("pad_id")
    tokens = _whole_numbers(answer, "tokens", (n, k, 2 * info.chunk_size), 0, info.vocab_size - 1)
    if (tokens[missing] != info.pad_id).any():
        raise ValueError("tokens of missing neighbours")
    return Neighbours(ids, distances, tokens, info.pad_id, measure, scores)


def _numbers(answer: dict, field: str, shape: tuple, missing: float) -> np.ndarray:
    """float32, `missing` in the place of null."""
    try:
        rows = [[missing if value is None else _finite(value) for value in row] for row in answer[field]]
        return np.array(rows, dtype=np.float32).reshape(shape)
    except (TypeError, ValueError) as error:
        raise ValueError(field) from error


def _whole_numbers(answer: dict, field: str, shape: tuple, least: int, most: int) -> np.ndarray:
    try:
        array = np.array(answer[field])  # uneven rows raise
    except ValueError as error:
        raise ValueError(field) from error
    if array.size == 0:
        array = np.zeros(shape, dtype=np.int64) if 0 in shape else array
    if array.shape != shape or array.dtype != np.int64:
        raise ValueError(field)
    if array.size and (array.min() < least or array.max() > most):
        raise ValueError(f"{field} in range")
    return array


def _origins(answer: dict, ids: np.ndarray) -> dict[int, Provenance]:
    rows = answer["origins"]
    if len(rows) != len(ids) or any(len(row) != ids.shape[1] for row in rows):
        raise ValueError("origins")
    return {
        int(chunk): Provenance(
            _text(said["document_id"]), _text(said["title"]), _count(said["offset"]), _text(said["source"])
        )
        for row, chunks in zip(rows, ids, strict=True)
        for said, chunk in zip(row, chunks, strict=True)
        if chunk != NO_CHUNK
    }


def _finite(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e30:
        raise ValueError("number")
    return float(value)


def _forms(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("list of retrievers")
    return tuple(_text(each) for each in value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _count(value: object, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 62:
        raise ValueError("number")
    return value


def _clause(error: Exception) -> str:
    """The field that a check named, for a message; of others only their kind."""
    return str(error).strip("'")[:60] if isinstance(error, ValueError | KeyError) else "content"


def _problem_sentence(data: bytes) -> str:
    """The `detail` of a problem+json body, on one line and not long; '' for anything else."""
    try:
        detail = json.loads(data)["detail"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return " ".join(detail.split())[:300] if isinstance(detail, str) and detail.isprintable() else ""
