"""Limits of the web app, and the environment variables it listens to."""

import importlib.util
import logging
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from indexing import paths
from indexing.errors import InputError

LOCAL, SERVER, PUBLIC = MODES = ("local", "server", "public")

_log = logging.getLogger(__name__)

MAX_PROMPT_TOKENS = 1024
MAX_PROMPT_CHARACTERS = 100_000  # refused before it is cut into tokens; more than any prompt that fits
MAX_UPLOAD, MAX_UPLOAD_OF_STRANGERS = "20mb", "5mb"  # one file
MAX_UPLOAD_BYTES = 200_000_000  # the files of one request
MAX_REQUEST_BYTES = 60_000_000  # any other request: the longest text that is indexed, as JSON writes it
ROOM_IN_REQUEST = 200_000  # bytes of a request besides what a visitor brings
DISK_RESERVE = 1_000_000_000  # bytes that uploads leave free
CACHE_SWEPT = (600, 3600)  # seconds between two sweeps of files that passed through the page, and their age
SESSIONS_BOUND = 10_000
DISK_OF_STRANGERS = 5_000_000_000  # bytes that visitors' things take together
SECONDS_BETWEEN_SWEEPS = 60.0
PARTS_KEPT = 600  # seconds of an upload that was cut off
DATASTORES_OPEN = 32
IN_LINE_EACH = 4  # places in a line that one address takes, in public
MAX_CORPUS_CHARACTERS = 20_000_000
MAX_TRACE_BYTES = 40_000_000
PREVIEW_CHUNKS = 120  # chunks drawn in the preview of a corpus
NOTES_SHOWN = 5  # sentences of each kind on what was left out of a corpus or repeats in it
TRACES_KEPT = 24  # finished traces in memory, for single heads and for saving
SECONDS_BETWEEN_DRAWINGS = 0.15  # of a running generation
SEARCH_RESULTS = 5
LOOKUPS_KEPT = 8  # ways to search a datastore, some with an index of words
FAR = 1.5  # squared L2 from which the nearest chunk is hardly about the same thing
MAPS_KEPT = 6  # maps of datastores in memory
EXPORTS_KEPT = 3600  # seconds that an exported file waits to be downloaded
DOCUMENTS_A_PAGE = 20  # in the list of a datastore's documents
TASKS_AT_ONCE = 1  # datastores being made or changed; both cores are busy with one
TASKS_WAITING = 8
MEASUREMENTS_AT_ONCE = 1
MAX_MEASURED_CHARACTERS = 300_000  # of one measurement; minutes of one core
TASKS_KEPT = 50  # ended ones, for pages that were reloaded meanwhile
MAX_IN_LINE = 24  # visitors who wait for the model; each holds one of the server's 40 threads
ALONE_AT_MOST = 300.0  # seconds that a text is written on after its page has gone away
ALONE_BEFORE_OTHERS = 20.0  # as before, while others wait: a page is loaded anew in less
MAX_STOPS = 16  # strings that end a text


def prepare_environment() -> None:
    """What must be set before gradio is imported: nothing of ours is reported anywhere."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["FORWARDED_ALLOW_IPS"] = ""  # `policy.address` tells where a request comes from
    if mode() == PUBLIC:  # a folder of our own, so that the janitor sweeps nobody else's
        os.environ.setdefault("GRADIO_TEMP_DIR", str(paths.home().absolute() / "tmp"))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def host() -> str:
    """What is listened at: this computer alone, unless the environment says otherwise, or a Space."""
    return os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if space() else "127.0.0.1")


def allowed_hosts() -> tuple[str, ...]:
    """Names that the server may be asked under, from RETRO_ALLOWED_HOSTS, between commas."""
    asked = os.environ.get("RETRO_ALLOWED_HOSTS", "").lower()
    return tuple(name.strip() for name in asked.split(",") if name.strip())


def port() -> int:
    """7860 unless GRADIO_SERVER_PORT says otherwise; never silently another one."""
    return int(os.environ.get("GRADIO_SERVER_PORT") or 7860)


def is_loopback() -> bool:
    """Whether only this computer reaches the page."""
    return host() in ("127.0.0.1", "localhost", "::1")


def mode() -> str:
    """By RETRO_MODE; else public on a Space and wherever the network reaches, local on one's own computer."""
    asked = os.environ.get("RETRO_MODE", "").strip().lower()
    if asked and asked not in MODES:
        raise InputError(f"Expected RETRO_MODE to be one of {', '.join(MODES)}, got {asked!r}.")
    return asked or (PUBLIC if space() or not is_loopback() else LOCAL)


def password() -> str | None:
    """What lets people into a server for those who trust each other."""
    return os.environ.get("RETRO_PASSWORD") or None


def passing_files() -> Path:
    """Where Gradio keeps what is uploaded and given out."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


def space() -> str | None:
    """The name of the Hugging Face Space that this runs in, None elsewhere."""
    return os.environ.get("SPACE_ID") or None


def space_host() -> str | None:
    return os.environ.get("SPACE_HOST") or None


def space_author() -> str | None:
    return os.environ.get("SPACE_AUTHOR_NAME") or None


def has_oauth() -> bool:
    """Whether the Space lets people sign in (`hf_oauth: true`), and brings what Gradio needs for that."""
    return bool(os.environ.get("OAUTH_CLIENT_ID")) and find_spec("authlib") is not None


def is_lent_a_gpu() -> bool:
    """Whether this is a Space that borrows a GPU for seconds at a time."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def behind_proxy() -> bool:
    """Whether what comes in was passed on by a proxy that says for whom: on a Space, or by RETRO_PROXY=1."""
    return bool(space()) or os.environ.get("RETRO_PROXY") == "1"


def serves_mcp() -> bool:
    """Whether agents can use the endpoints as MCP tools: where RETRO_MCP=1 asks for it and `gradio[mcp]` is
    installed."""
    if os.environ.get("RETRO_MCP") != "1":
        return False
    if importlib.util.find_spec("mcp") is None:
        _log.warning('RETRO_MCP=1 needs `pip install "gradio[mcp]"`. The page starts without MCP tools.')
        return False
    return True


def warm_after() -> float | None:
    """Seconds between the first page view and loading the model in the background; None is never."""
    seconds = float(os.environ.get("RETRO_WARM_AFTER") or 3)
    return seconds if seconds >= 0 else None


def allows_fetching() -> bool:
    """Whether strangers may have models fetched."""
    return os.environ.get("RETRO_ALLOW_FETCH") == "1"
