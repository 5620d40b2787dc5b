"""The only process-wide state of the app: what is loaded, which traces are kept, who asked to stop.

The page must be up before torch is: modules that import it are imported inside functions here.
"""

import gzip
import json
import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app import owners, policy, settings
from app.policy import Visitor
from indexing import nearness, paths
from indexing.datastore import Datastore, DatastoreInfo, list_datastores
from indexing.embedder import DEFAULT_EMBEDDER, Embedder, open_embedder
from indexing.errors import CheckpointError, DatastoreError, InputError, RetroError, TraceError
from indexing.manifest import read_manifest
from indexing.retokenised import RetokenisedDatastore
from indexing.retrievers import Lookup, open_lookup
from indexing.tokenizer import Tokenizer
from retro_core.bases import CONFIG_FILE, BaseInfo, ModelInfo, base_folder, list_bases, list_models
from retro_core.trace import Trace

if TYPE_CHECKING:
    from retro_core.checkpoint import LoadedModel

_loading = threading.RLock()
_models: dict[str, tuple[int, "LoadedModel"]] = {}  # name -> (time of its config, model)
_tokenizers: dict[tuple[Path, int], Tokenizer] = {}  # (folder, time of its config) -> tokenizer
_embedders: dict[str, Embedder] = {}
_datastores: dict[str, Datastore] = {}  # last used last
_lookups: OrderedDict[str, Lookup] = OrderedDict()  # last used last
_nearness: dict[str, tuple[str, np.ndarray]] = {}  # name -> (identity of the datastore, distances in it)
_warming: list[threading.Thread] = []

_keeping = threading.Lock()
_traces: OrderedDict[str, tuple[Trace, str | None]] = OrderedDict()  # (trace, whose), oldest first
_changes: dict[str, dict[str, Any]] = {}  # id of a trace that came of another by a change -> what was changed
_recorded: dict[str, Trace] = {}
_stopping: set[str] = set()

STARTED = secrets.token_urlsafe(6)  # another one after each start of the server
_RECORDED = "recorded-"  # how the ids of recorded traces begin


# Models, embedders, datastores


def models() -> list[ModelInfo]:
    """The bundled model, others that stand alone, fitted ones, bases without a fit, and last the fitted ones
    whose base is not here."""
    return sorted(
        list_models(),
        key=lambda info: (
            info.name != paths.DEMO_MODEL,
            info.state != "here",
            bool(info.base),
            not info.fitted,
            info.name,
        ),
    )


def model_info(name: str) -> ModelInfo:
    """What is known of a model that can be used now, without opening it.

    Raises InputError if there is no such model, CheckpointError if it was fitted to a base that is not here.
    """
    info = next((info for info in list_models() if info.name == name), None)
    if info is None:
        raise InputError(f"There is no model {name!r} here. Choose one of the list.")
    if info.state != "here":
        raise CheckpointError(
            f"The model {name!r} was fitted to the base {info.base!r}, which is not here. Fetch it under "
            f"More models, or with `python -m retro_core fetch {info.base}`."
        )
    return info


def model_is_loaded(name: str = paths.DEMO_MODEL) -> bool:
    return name in _models and _models[name][0] == _time_of(_model_config(name))


def model(name: str = paths.DEMO_MODEL) -> "LoadedModel":
    """The model, loaded on first use; a second caller waits for the first. At most two are kept in memory:
    the bundled one, and the last other one.

    Raises what `model_info` and `load_model` do.
    """
    with _loading:
        if not model_is_loaded(name):
            model_info(name)
            from retro_core.checkpoint import load_model

            for other in {*_models} - {paths.DEMO_MODEL}:
                del _models[other]
            _models[name] = (_time_of(_model_config(name)), load_model(name))
        return _models[name][1]


def tokenizer(name: str = paths.DEMO_MODEL) -> Tokenizer:
    """The model's tokenizer, without the model; a few are kept, as a preview asks at each key."""
    if model_is_loaded(name):
        return _models[name][1].tokenizer
    with _loading:
        key = _model_folder(name), _time_of(_model_config(name))
        if key not in _tokenizers:
            while len(_tokenizers) > 2:
                _tokenizers.pop(next(iter(_tokenizers)))
            _tokenizers[key] = Tokenizer.load(key[0])
        return _tokenizers[key]


def _model_config(name: str) -> Path:
    return _model_folder(name) / CONFIG_FILE


def _model_folder(name: str) -> Path:
    """A fetched base without a fit is a model too."""
    folder = paths.model_dir(name)
    return folder if folder.is_dir() else base_folder(name)


def bases() -> list[BaseInfo]:
    return list_bases()


def fitted_to(base: BaseInfo) -> list[ModelInfo]:
    """The models that were fitted to this base."""
    return [
        info for info in list_models() if info.base and info.fitted and base_folder(info.base) == base.folder
    ]


def embedder_is_loaded() -> bool:
    return DEFAULT_EMBEDDER in _embedders


def embedder(name: str = DEFAULT_EMBEDDER) -> Embedder:
    with _loading:
        if name not in _embedders:
            _embedders[name] = open_embedder(name)
        return _embedders[name]


def open_to(name: str, who: Visitor | None = None) -> str:
    """`name`, if this visitor may read the datastore; what is another's is not there for them.

    who  None is whoever is not known: what belongs to a visitor is not theirs

    Raises InputError (a name), DatastoreError (there is none).
    """
    folder = paths.datastore_dir(name)
    who = who or policy.visitor()
    if not who.may_see(name) or (owners.mark_of(name) and not folder.exists()):
        raise DatastoreError(f"There is no datastore {owners.shown(name)!r} here. Choose one of the list.")
    if owners.mark_of(name):
        with suppress(OSError):
            os.utime(folder)  # it is kept for some time after it was last used
    return name


def expect_room(who: Visitor) -> None:
    """Raises InputError if this visitor has as many datastores as are kept for one, or the disk is full."""
    if who.rule.kept and shutil.disk_usage(paths.ASSETS).free < settings.DISK_RESERVE:
        raise InputError("The server's disk is nearly full; no datastore can be made. Try again in an hour.")
    policy.expect_room(who, sum(owners.mark_of(info.name) is not None for info in datastores(who)))


def changeable(name: str, who: Visitor) -> str:
    """`name`, if this visitor may change the datastore. Raises what `open_to` does."""
    open_to(name, who)
    if not who.may_change(name):
        raise DatastoreError(
            f"{name} is everybody's here, and is not changed by visitors. Make a datastore of your own."
        )
    return name


def snapshot(name: str, who: Visitor | None = None) -> Datastore:
    """The datastore as it is on the disk now; its embedder is loaded when something is looked up. Raises what
    `open_to` does."""
    open_to(name, who)
    with _loading:
        folder, known = paths.datastore_dir(name), _datastores.get(name)
        if known is None or known.path != folder:
            known = Datastore.open(name)
        _datastores.pop(name, None)
        opened = _datastores[name] = known.current()
        while len(_datastores) > settings.DATASTORES_OPEN:
            del _datastores[next(iter(_datastores))]
    return opened


def embedder_of(name: str) -> Embedder:
    """The one that a datastore was built with; opens no more of it than that."""
    return embedder(read_manifest(paths.datastore_dir(name))["embedder"]["name"])


def datastore(
    name: str, model: "LoadedModel | None" = None, who: Visitor | None = None
) -> Datastore | RetokenisedDatastore:
    """The datastore as it is on the disk now, its embedder loaded and shared.

    model  the one that reads from it: if its tokenizer is another, texts are encoded again in its tokens
    """
    with _loading:
        opened = snapshot(name, who)
        opened.share_embedder(embedder(opened.embedder_name))
    if model is None or opened.tokenizer.fingerprint == model.tokenizer.fingerprint:
        return opened
    return RetokenisedDatastore(opened, model.tokenizer, model.config.chunk_size)


def lookup(name: str, form: str, model: "LoadedModel | None" = None, who: Visitor | None = None) -> Lookup:
    """The datastore as it is now, in the order that `form` names; what was made for it, as an index of words,
    is kept until the datastore changes, unless a model reads it in tokens of its own. Raises what `datastore`
    and `open_lookup` do."""
    store, key = datastore(name, model, who), f"{form} {name}"
    if isinstance(store, RetokenisedDatastore):
        return open_lookup(form, store)
    with _loading:
        known = _lookups.pop(key, None)
        if known is None or known.datastore is not store:
            known = open_lookup(form, store)
        _lookups[key] = known
        while len(_lookups) > settings.LOOKUPS_KEPT:
            _lookups.popitem(last=False)
    return known


def nearest_distances(name: str, who: Visitor | None = None) -> np.ndarray:
    """How far a datastore's own chunks are from each other, see `indexing.nearness`; kept until it changes.
    Raises what `snapshot` does."""
    store = snapshot(name, who)
    known = _nearness.get(name)
    if known is None or known[0] != store.identity:
        known = _nearness[name] = store.identity, nearness.nearest_distances(store)
        while len(_nearness) > settings.LOOKUPS_KEPT:
            _nearness.pop(next(iter(_nearness)))
    return known[1]


def is_read_as_text(name: str, model_name: str, who: Visitor | None = None) -> bool:
    """Whether the model has another tokenizer than the datastore; opens neither."""
    open_to(name, who)
    manifest = read_manifest(paths.datastore_dir(name))
    return manifest["tokenizer"]["fingerprint"] != tokenizer(model_name).fingerprint


def _time_of(file: Path) -> int:
    """When a folder's describing file was written, by which a folder that was replaced is noticed."""
    return file.stat().st_mtime_ns if file.exists() else -1


def datastores(who: Visitor | None = None) -> list[DatastoreInfo]:
    """Those that this visitor may read: everybody's and their own. who: None sees everybody's only"""
    who = who or policy.visitor()
    return [info for info in list_datastores() if who.may_see(info.name)]


def datastore_called(name: str, who: Visitor | None = None) -> str | None:
    """What this visitor knows by `name`, whole or as people are shown it; None if there is none."""
    names = [info.name for info in datastores(who)]
    return name if name in names else next((one for one in names if owners.shown(one) == name), None)


def datastore_choices(who: Visitor | None = None) -> list[tuple[str, str]]:
    """(as people are shown it, name) of each."""
    return [(owners.shown(info.name), info.name) for info in datastores(who)]


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
        loaded = model()
        from retro_core.decoding import for_decoding

        for_decoding(loaded.model)
        if name:
            # The first query pays for lazily made parts of the embedder; let it be this one.
            datastore(name).search("warm-up", 1)
    except RetroError:
        return  # told to the first person who runs something


# Traces


def keep(
    trace: Trace,
    trace_id: str | None = None,
    who: Visitor | None = None,
    change: dict[str, Any] | None = None,
) -> str:
    """Remember a trace; the id that leads back to it. The oldest is forgotten when there are too many.

    who     whose it is; without, or where the browser keeps no cookie, it is whoever's who has the id
    change  how it came of another trace, for the lens
    """
    trace_id = trace_id or new_id()
    with _keeping:
        _traces[trace_id] = trace, who.owner if who and who.keeps else None
        if change is not None:
            _changes[trace_id] = change
        while len(_traces) > settings.TRACES_KEPT:
            _changes.pop(_traces.popitem(last=False)[0], None)
    return trace_id


def new_id() -> str:
    return secrets.token_urlsafe(12)


def trace(trace_id: str, who: Visitor | None = None) -> Trace:
    """Raises TraceError if the id is unknown or forgotten, or leads to another visitor's trace."""
    who = who or policy.visitor()
    with _keeping:
        found, whose = _traces.get(trace_id, (_recorded.get(trace_id), None))
        if found is None or (whose is not None and not who.owns(whose)):
            raise TraceError(
                "The server no longer has this trace. Run the prompt again, or open a saved trace."
            )
        if trace_id in _traces:
            _traces.move_to_end(trace_id)
    return found


def view(trace_id: str, who: Visitor | None = None) -> dict[str, Any]:
    """What the lens draws, with the id under which it asks for more. A recorded trace says that it is one."""
    value = {**trace(trace_id, who).view(), "id": trace_id}
    if trace_id in _changes:
        value["change"] = _changes[trace_id]
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


def recorded_comparison(name: str) -> dict[str, Any] | None:
    """What Compare shows before anything was run; None if it was not recorded."""
    path = paths.ASSETS / "traces" / f"{name}.comparison.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


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
    try:
        return Trace.from_json(value)
    except TraceError as error:
        raise TraceError(f"{path.name} was not opened. {error}") from error


# Stopping. A handler looks here between two steps, so that what it has is kept.


def request_stop(session: str) -> None:
    with _keeping:
        _stopping.add(session)


def stop_requested(session: str) -> bool:
    return session in _stopping


def forget_stop(session: str) -> None:
    with _keeping:
        _stopping.discard(session)
