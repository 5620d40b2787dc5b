"""The only process-wide state of the app: what is loaded, which traces are kept, who asked to stop.

The page must be up before torch is: modules that import it are imported inside functions here.
"""

import gzip
import json
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import settings
from indexing import paths
from indexing.datastore import Datastore, DatastoreInfo, list_datastores
from indexing.embedder import DEFAULT_EMBEDDER, Embedder, SentenceTransformerEmbedder
from indexing.errors import RetroError, TraceError
from indexing.manifest import MANIFEST_FILE
from indexing.tokenizer import Tokenizer
from retro_core.trace import Trace

if TYPE_CHECKING:
    from retro_core.checkpoint import LoadedModel

_loading = threading.RLock()
_models: dict[str, "LoadedModel"] = {}
_embedders: dict[str, Embedder] = {}
_datastores: dict[str, tuple[int, Datastore]] = {}  # name -> (time of its manifest, datastore)
_warming: list[threading.Thread] = []

_keeping = threading.Lock()
_traces: OrderedDict[str, Trace] = OrderedDict()  # oldest first
_recorded: dict[str, Trace] = {}
_stopping: set[str] = set()

_RECORDED = "recorded-"  # how the ids of recorded traces begin


# Models, embedders, datastores


def model_is_loaded(name: str = paths.DEMO_MODEL) -> bool:
    return name in _models


def model(name: str = paths.DEMO_MODEL) -> "LoadedModel":
    """The model, loaded on first use; a second caller waits for the first."""
    with _loading:
        if name not in _models:
            from retro_core.checkpoint import load_model

            _models[name] = load_model(name)
        return _models[name]


def tokenizer(name: str = paths.DEMO_MODEL) -> Tokenizer:
    """The model's tokenizer, without the model."""
    return _models[name].tokenizer if name in _models else Tokenizer.load(paths.model_dir(name))


def embedder_is_loaded() -> bool:
    return DEFAULT_EMBEDDER in _embedders


def embedder(name: str = DEFAULT_EMBEDDER) -> Embedder:
    with _loading:
        if name not in _embedders:
            _embedders[name] = SentenceTransformerEmbedder(name)
        return _embedders[name]


def datastore(name: str) -> Datastore:
    """The datastore as it is on the disk now, its embedder loaded and shared.

    Raises MismatchError if it was built with another tokenizer than the model's.
    """
    with _loading:
        changed = _manifest_time(name)
        known = _datastores.get(name)
        if known is None or known[0] != changed:
            # Twice (50 ms): a foreign tokenizer is refused before the seconds that an embedder takes to load.
            opened = Datastore.open(name, tokenizer=tokenizer())
            opened = Datastore.open(name, tokenizer=tokenizer(), embedder=embedder(opened.embedder_name))
            known = _datastores[name] = (changed, opened)
        return known[1]


def _manifest_time(name: str) -> int:
    manifest = paths.datastore_dir(name) / MANIFEST_FILE
    return manifest.stat().st_mtime_ns if manifest.exists() else -1


def datastores() -> list[DatastoreInfo]:
    return list_datastores()


def default_datastore() -> str | None:
    """The bundled datastore's name, or any other's, or None where there is none at all."""
    names = [info.name for info in datastores()]
    if paths.DEMO_DATASTORE in names:
        return paths.DEMO_DATASTORE
    return names[0] if names else None


def warm_up() -> None:
    """Load the model and the bundled datastore soon, in the background, once a process."""
    delay = settings.warm_after()
    with _keeping:
        if delay is None or _warming:
            return
        _warming.append(threading.Thread(target=_warm, args=(delay,), daemon=True, name="warm-up"))
    _warming[0].start()


def _warm(delay: float) -> None:
    time.sleep(delay)  # the page draws itself first
    name = default_datastore()
    try:
        model()
        if name:
            # The first query pays for lazily made parts of the embedder; let it be this one.
            datastore(name).search("warm-up", 1)
    except RetroError:
        return  # told to the first person who runs something


# Traces


def keep(trace: Trace, trace_id: str | None = None) -> str:
    """Remember a trace; the id that leads back to it. The oldest is forgotten when there are too many."""
    trace_id = trace_id or new_id()
    with _keeping:
        _traces[trace_id] = trace
        while len(_traces) > settings.TRACES_KEPT:
            _traces.popitem(last=False)
    return trace_id


def new_id() -> str:
    return secrets.token_urlsafe(12)


def trace(trace_id: str) -> Trace:
    """Raises TraceError if the id is unknown or forgotten."""
    with _keeping:
        if trace_id in _traces:
            _traces.move_to_end(trace_id)
        found = _recorded.get(trace_id) or _traces.get(trace_id)
    if found is None:
        raise TraceError("The server no longer has this trace. Run the prompt again, or open a saved trace.")
    return found


def view(trace_id: str) -> dict[str, Any]:
    """What the lens draws, with the id under which it asks for more. A recorded trace says that it is one."""
    value = {**trace(trace_id).view(), "id": trace_id}
    if trace_id in _recorded:
        subject = value["title"] or trace_id.removeprefix(_RECORDED).lstrip("0123456789-").replace("-", " ")
        value["title"] = f"Recorded example: {subject.removeprefix('Recorded example: ')}"
    return value


def recorded() -> list[str]:
    """Ids of the traces that ship with the product, in the order of their file names."""
    with _keeping:
        if not _recorded:
            for path in sorted((paths.ASSETS / "traces").glob("*.retro.json*")):
                _recorded[_RECORDED + path.name.split(".")[0]] = read_trace(path)
        return list(_recorded)


def read_trace(path: Path | str) -> Trace:
    """Open a trace file, gzipped or not. Raises TraceError with what is wrong with it."""
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            data = file.read(settings.MAX_TRACE_BYTES + 1)
        if len(data) > settings.MAX_TRACE_BYTES:
            raise TraceError(
                f"{path.name} is larger than {settings.MAX_TRACE_BYTES // 1_000_000} MB. "
                "Expected a trace saved by RETRO Explorer."
            )
        value = json.loads(data)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise TraceError(
            f"{path.name} is not a trace: it cannot be read as JSON. Choose a file that ends in .retro.json."
        ) from error
    return Trace.from_json(value)


# Stopping. A handler looks here between two steps, so that what it has is kept.


def request_stop(session: str) -> None:
    with _keeping:
        _stopping.add(session)


def stop_requested(session: str) -> bool:
    return session in _stopping


def forget_stop(session: str) -> None:
    with _keeping:
        _stopping.discard(session)
