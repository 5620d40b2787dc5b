"""Where everything lives: the only place that reads RETRO_HOME, and RETRO_SERVICE_TOKEN.

$RETRO_HOME/            default ~/.retro
    datastores/NAME/    what `indexing build` and the Corpus tab make
    models/NAME/        weights + config + tokenizer
    training-sets/NAME/ texts with their neighbours, what `indexing training-set` makes
    runs/ID/            training runs
    measurements/ID/    what the Measure tab measured
    bases/NAME/         language models of others, fetched to be RETRO-fitted
    embedders/NAME/     static embedders, distilled here

What ships with the product lies in `assets/` in the same layout, read-only; a user's folder of the
same name comes first.
"""

import os
import re
from pathlib import Path

from indexing.errors import InputError

ASSETS = Path(__file__).resolve().parent.parent / "assets"
DEMO_MODEL = "demo"
DEMO_DATASTORE = "factbook"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def home() -> Path:
    """The user's folder, read from the environment at each call so that tests can redirect it."""
    return Path(os.environ.get("RETRO_HOME") or Path.home() / ".retro").expanduser()


def child_environment() -> dict[str, str]:
    """The environment for a process of ours in another folder: RETRO_HOME told from the root on."""
    return {**os.environ, "RETRO_HOME": str(home().absolute())}


def service_token() -> str | None:
    """The bearer token of a retrieval service, for whoever serves or asks; None if there is none. It has no
    command line option, because every user of a computer can see the others' command lines."""
    return os.environ.get("RETRO_SERVICE_TOKEN") or None


def check_name(name: str) -> str:
    """Return `name` if it can name a folder of ours; raise InputError otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise InputError(
            f"{name!r} cannot be used as a name: expected 1 to 64 lower-case letters, digits, '.', "
            "'_' or '-', starting with a letter or digit. Choose another name, for example 'my-notes'."
        )
    return name


def slug(text: str) -> str:
    """The nearest valid name to `text`, for suggestions: 'My Notes!.txt' -> 'my-notes-.txt'."""
    name = re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._").replace("..", ".")
    return name[:64] or "corpus"


def datastores_dir() -> Path:
    return home() / "datastores"


def models_dir() -> Path:
    return home() / "models"


def training_sets_dir() -> Path:
    return home() / "training-sets"


def runs_dir() -> Path:
    return home() / "runs"


def measurements_dir() -> Path:
    return home() / "measurements"


def bases_dir() -> Path:
    return home() / "bases"


def embedders_dir() -> Path:
    return home() / "embedders"


def datastore_dir(name: str) -> Path:
    """The folder of datastore `name`: the user's if it exists, else the bundled one, else the user's
    (which then does not exist yet)."""
    return _find(datastores_dir(), ASSETS / "datastores", name)


def model_dir(name: str) -> Path:
    """Like `datastore_dir`, for models."""
    return _find(models_dir(), ASSETS / "models", name)


def training_set_dir(name: str) -> Path:
    """Like `datastore_dir`, for training sets."""
    return _find(training_sets_dir(), ASSETS / "training-sets", name)


def _find(own: Path, bundled: Path, name: str) -> Path:
    check_name(name)
    if not (own / name).exists() and (bundled / name).is_dir():
        return bundled / name
    return own / name


def is_bundled(folder: Path) -> bool:
    return folder.resolve().is_relative_to(ASSETS)
