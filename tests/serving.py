"""A retrieval service on a loopback port, in a thread of the test; and servers that misbehave."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from conftest import SENTENCES
from fakes import HashingEmbedder

from indexing import service
from indexing.build import build
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.tokenizer import Tokenizer


@contextmanager
def serving(
    *datastores,
    host: str = "127.0.0.1",
    limits: service.Limits | None = None,
    retrievers: Sequence[str] = ("dense",),
    **more,
) -> Iterator[str]:
    """Yield the address of a service of these datastores."""
    library = service.Library(datastores, retrievers)
    server = service.server(library, host, limits=limits or service.Limits(), **more)
    with service.listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def five_texts(folder: Path, tokenizer: Tokenizer, chunk_size: int, dim: int) -> Datastore:
    """A small datastore in `folder`."""
    texts = [" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(5)]
    documents = [Document(f"doc-{i}", f"Title {i}", text, f"file, line {i}") for i, text in enumerate(texts)]
    embedder = HashingEmbedder(dim=dim)
    list(build(folder, documents, tokenizer, embedder, chunk_size=chunk_size))
    return Datastore.open(folder, embedder=embedder)


@contextmanager
def misbehaving(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[float]]]:
    """A server that does `answer` with each connection, and then hangs up; its address, and when it was
    called."""
    calls: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                calls.append(time.monotonic())
                with connection, suppress(OSError):
                    answer(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", calls
        listening.shutdown(socket.SHUT_RDWR)


def request_body(connection: socket.socket) -> bytes:
    """The body of one request with a Content-Length, read from `connection`."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [
        line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length")
    ]
    while len(body) < int(lengths[0] if lengths else 0):
        body += connection.recv(65536)
    return body


def send_answer(connection: socket.socket, body: bytes, status: str = "200 OK", *headers: str) -> None:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
