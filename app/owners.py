"""Who a visitor is, and what is whose, where strangers share one server.

A visitor is known by a cookie that the server made: a random token and its seal, made with a key that only
this server has. What names the visitor inside the server is a digest of the token, so that nothing on the
disk, in a log or on a page leads back to the cookie. A browser's session hash is chosen by the browser and
says nothing.

What a visitor makes carries the owner in its folder's name, `my-notes.v-0123456789abcdef` (`.u-` of somebody
who signed in): the folder and whose it is come into being, move and go in one step. People are shown
`my-notes`. A name without such an ending is everybody's to read and the server's owner's to change.
"""

import hashlib
import hmac
import os
import re
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Any

from indexing import paths

KEY_FILE = ".visitors.key"  # in RETRO_HOME, so that a restart that keeps the folder keeps the visitors
COOKIE, SECURE_COOKIE = "retro-visitor", "__Host-retro-visitor"
PASSING, ACCOUNT = "v", "u"  # how an owner begins: known by a cookie, or by an account
_SAID = 18  # of an owner in a name: its kind and sixteen digits
MARK_LENGTH = 1 + _SAID
_MARK = re.compile(r"\.([uv]-[0-9a-f]{16})(?![0-9a-f])")
_TOKEN = re.compile(r"([A-Za-z0-9_-]{32})\.([0-9a-f]{64})")


def new_token() -> str:
    """A visitor's cookie: nobody can guess one, nor seal one of their own."""
    token = secrets.token_urlsafe(24)
    return f"{token}.{_seal(token)}"


def owner_of(cookie: object) -> str | None:
    """The owner that this cookie leads to; None unless this server made it."""
    found = _TOKEN.fullmatch(cookie) if isinstance(cookie, str) else None
    if found is None or not hmac.compare_digest(_seal(found[1]), found[2]):
        return None
    return _owner(PASSING, found[1])


def stranger() -> str:
    """The owner of what nobody can come back to."""
    return _owner(PASSING, secrets.token_urlsafe(24))


def owner_of_account(name: str) -> str:
    """The owner that an account of the Hub leads to, wherever it signs in from."""
    return _owner(ACCOUNT, _seal(f"account {name}"))


def mark(name: str, owner: str) -> str:
    """The folder's name of what `owner` calls `name`."""
    return f"{name}.{owner[:_SAID]}"


def mark_of(name: object) -> str | None:
    """How the owner begins whose it is; None if it is everybody's."""
    if not isinstance(name, str) or not _MARK.fullmatch(name[-MARK_LENGTH:]):
        return None
    return name[-_SAID:]


def find_mark(words: str) -> str | None:
    """As `mark_of`, of a name with something before or behind it."""
    found = _MARK.search(words)
    return found[1] if found else None


def shown(words: str) -> str:
    """A name or a sentence with names in it, as people are shown it: without marks."""
    return _MARK.sub("", words)


def shown_in(value: Any) -> Any:
    """What is in a value, as people are shown it."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, list):
        return [shown_in(one) for one in value]
    if isinstance(value, dict):
        return {name: shown_in(one) for name, one in value.items()}
    return value


def _owner(kind: str, secret: str) -> str:
    return f"{kind}-{hashlib.sha256(secret.encode()).hexdigest()[:32]}"


def _seal(token: str) -> str:
    return hmac.new(_key(str(paths.home())), token.encode(), hashlib.sha256).hexdigest()


@lru_cache(maxsize=4)
def _key(home: str) -> bytes:
    """Made once for a RETRO_HOME; where that cannot be written, once a process."""
    file = Path(home) / KEY_FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            new.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    except OSError:
        return secrets.token_bytes(32)
    found = file.read_bytes()
    return found if len(found) == 32 else secrets.token_bytes(32)
