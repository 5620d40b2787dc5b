"""python -m indexing serve: answer programs over HTTP, see docs/service.md."""

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

from indexing import paths
from indexing.commands.declaring import declare
from indexing.commands.shown import progress
from indexing.datastore import Datastore
from indexing.errors import ConfigError
from indexing.index import IndexSettings
from indexing.retrievers import DEFAULT_RETRIEVER

_HOST = "127.0.0.1"
_PORT = 8000


def add(commands) -> None:
    # Without abbreviations, `--token SECRET` is refused instead of being taken for a file.
    command = declare(commands, "serve", _serve, "answer programs over HTTP", allow_abbrev=False)
    command.add_argument(
        "names", metavar="NAME", nargs="+", help="datastores; the first answers who asks for none by name"
    )
    command.add_argument(
        "--host", metavar="ADDRESS", default=_HOST, help="address to listen on (%(default)s)"
    )
    command.add_argument(
        "--port", metavar="N", type=int, default=_PORT, help="port, 0 for any free one (%(default)s)"
    )
    command.add_argument(
        "--retriever",
        metavar="FORM",
        action="append",
        help=f"what requests may choose to look with ({DEFAULT_RETRIEVER}), see `search --help`; may be "
        "given several times, the first answers who chooses none",
    )
    command.add_argument(
        "--nprobe",
        metavar="N",
        type=int,
        help="lists of an IVF index that a query reads, as `index --nprobe` sets it",
    )
    command.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        help="file with the token that requests must carry; or set RETRO_SERVICE_TOKEN",
    )
    command.add_argument(
        "--host-name",
        metavar="DOMAIN",
        action="append",
        default=[],
        help="name that requests may call this computer by; may be given several times",
    )


def _serve(arguments: argparse.Namespace) -> None:
    # Half a second of FastAPI, which no other command needs.
    from indexing import service

    token = paths.service_token()
    if arguments.token_file is not None:
        token = _read_token(arguments.token_file)
    service.check_token(arguments.host, token)  # before seconds are spent on opening
    datastores = [Datastore.open(name) for name in arguments.names]
    library = service.Library(datastores, arguments.retriever or [DEFAULT_RETRIEVER])
    server = service.server(library, arguments.host, token, arguments.host_name)
    with service.listen(arguments.host, arguments.port) as listening:
        print(f"opening {', '.join(library.names)}", file=sys.stderr, flush=True)
        for datastore in datastores:
            for built in datastore.build_index(_settings(datastore, arguments.nprobe)):
                progress(built.message or built.stage, built.done, built.total)
        for event in library.prepare():
            progress("indexing words", event.done, event.total)
        host, port = listening.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(f"serving {', '.join(library.names)} at {address}  (Ctrl-C stops)", flush=True)
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
        )
        logging.getLogger("httpx").setLevel(logging.WARNING)
        server.run(sockets=[listening])
        raise KeyboardInterrupt  # what ended it; uvicorn swallows it where a shell had it ignored


def _settings(datastore: Datastore, nprobe: int | None) -> IndexSettings | None:
    return None if nprobe is None else dataclasses.replace(datastore.index_settings(), nprobe=nprobe)


def _read_token(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not plain ASCII text"
        raise ConfigError(
            f"Cannot read the token in {file}: {reason}. Write it there on one line."
        ) from error
