"""What may be done here, by whom, how often: one table for the handlers, the tests and docs/space.md.

Whatever Gradio is given is an address that anybody can call, also when its button is hidden. So every handler
that costs or changes something begins with `permit`.
"""

import ipaddress
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app import owners, settings
from indexing.errors import InputError


class Action(StrEnum):
    CALL = "ask for anything"  # any request that is no mere look at the page
    SIGN_IN = "try a password"
    UPLOAD = "upload"
    LOOK_UP = "look up"  # what would a text retrieve, a map, a datastore's documents
    PREVIEW = "preview a text"  # as chunks, before a datastore is made of it
    GENERATE = "generate"
    SCORE = "score"  # a text read without writing: scoring, a changed neighbour
    COMPARE = "compare"
    OPEN_TRACE = "open a trace"
    MAKE_DATASTORE = "make a datastore"
    CHANGE_DATASTORE = "change a datastore"
    EXPORT_DATASTORE = "export a datastore"
    IMPORT_DATASTORE = "import a datastore"
    FETCH_MODEL = "fetch a model"
    TRAIN = "train"
    MANAGE_RUN = "stop, resume or delete a run"
    EVALUATE = "evaluate"


class Mode(StrEnum):
    """LOCAL: one's own computer · SERVER: behind a password, for people who trust each other · PUBLIC: for
    strangers, as a Hugging Face Space is"""

    LOCAL = settings.LOCAL
    SERVER = settings.SERVER
    PUBLIC = settings.PUBLIC


class Role(StrEnum):
    ANONYMOUS = "anonymous"
    SIGNED_IN = "signed in"
    OWNER = "owner"


@dataclass(frozen=True)
class Rule:
    """0 is without a limit.

    a_minute, an_hour  for one visitor · everybody  a minute, for all visitors together
    at_once            tasks or runs of one visitor that have not ended
    tokens             written for one prompt · characters, files, kept  of a datastore; how many of these
    steps              of a training run · keep_minutes  after which what was made is removed
    """

    allowed: bool = True
    a_minute: int = 0
    an_hour: int = 0
    everybody: int = 0
    at_once: int = 0
    tokens: int = 0
    characters: int = 0
    files: int = 0
    kept: int = 0
    steps: int = 0
    keep_minutes: int = 0


FREE, NEVER = Rule(), Rule(allowed=False)
_FETCHING = Rule(an_hour=4, everybody=2)  # where the server's owner lets strangers do it
_TRIES = Rule(a_minute=10)  # of a password, from one address
_SMALL = {"characters": 1_000_000, "files": 5, "kept": 3, "keep_minutes": 30, "at_once": 1}
_LARGER = {"characters": 5_000_000, "files": 20, "kept": 10, "keep_minutes": 24 * 60, "at_once": 1}

# In public: what anybody may do, and somebody who signed in. The server's owner may do everything.
_PUBLIC: dict[Action, tuple[Rule, Rule]] = {
    Action.CALL: (Rule(a_minute=300, everybody=6000), Rule(a_minute=600, everybody=6000)),
    Action.UPLOAD: (Rule(a_minute=10, everybody=60), Rule(a_minute=30, everybody=60)),
    Action.LOOK_UP: (Rule(a_minute=60, everybody=600), Rule(a_minute=120, everybody=600)),
    Action.PREVIEW: (
        Rule(a_minute=120, everybody=600, characters=1_000_000, files=5),
        Rule(a_minute=120, everybody=600, characters=5_000_000, files=20),
    ),
    Action.GENERATE: (
        Rule(a_minute=10, everybody=60, tokens=256),
        Rule(a_minute=30, everybody=60, tokens=256),
    ),
    Action.SCORE: (Rule(a_minute=20, everybody=120), Rule(a_minute=60, everybody=120)),
    Action.COMPARE: (
        Rule(a_minute=6, everybody=40, tokens=128),
        Rule(a_minute=20, everybody=40, tokens=256),
    ),
    Action.OPEN_TRACE: (Rule(a_minute=10, everybody=60), Rule(a_minute=30, everybody=60)),
    Action.MAKE_DATASTORE: (
        Rule(an_hour=10, everybody=10, **_SMALL),
        Rule(an_hour=30, everybody=10, **_LARGER),
    ),
    Action.CHANGE_DATASTORE: (
        Rule(a_minute=10, everybody=30, **_SMALL),
        Rule(a_minute=20, everybody=30, **_LARGER),
    ),
    Action.EXPORT_DATASTORE: (Rule(an_hour=6, everybody=6), Rule(an_hour=20, everybody=6)),
    Action.IMPORT_DATASTORE: (NEVER, NEVER),
    Action.FETCH_MODEL: (NEVER, NEVER),
    Action.TRAIN: (NEVER, Rule(an_hour=4, everybody=2, at_once=1, steps=200, keep_minutes=24 * 60)),
    Action.MANAGE_RUN: (NEVER, Rule(a_minute=20, everybody=60)),
    Action.EVALUATE: (NEVER, Rule(an_hour=4, everybody=2, at_once=1, keep_minutes=24 * 60)),
}


def rule(action: Action, mode: Mode, role: Role) -> Rule:
    """The table. Outside of public mode there is one role: whoever gets in may do everything."""
    if action is Action.SIGN_IN:
        return _TRIES
    if mode is not Mode.PUBLIC or role is Role.OWNER:
        return FREE
    if action is Action.FETCH_MODEL and settings.allows_fetching():
        return _FETCHING
    return _PUBLIC[action][role is Role.SIGNED_IN]


def in_words(granted: Rule) -> str:
    """A rule as a person reads it."""
    if not granted.allowed:
        return "no"
    told = [
        (granted.a_minute, "{:,} a minute"),
        (granted.an_hour, "{:,} an hour"),
        (granted.everybody, "{:,} a minute for all together"),
        (granted.at_once, "{:,} at once"),
        (granted.tokens, "up to {:,} tokens"),
        (granted.steps, "up to {:,} steps"),
        (granted.characters, "up to {:,} characters"),
        (granted.files, "up to {:,} files"),
        (granted.kept, "{:,} kept"),
    ]
    found = [words.format(count) for count, words in told if count]
    if granted.keep_minutes:
        found.append(f"removed {in_minutes(granted.keep_minutes)} after it was last used")
    return ", ".join(found) or "yes"


def table() -> str:
    """The table for docs/space.md, as Markdown."""
    columns = [
        (Mode.LOCAL, Role.OWNER),
        (Mode.PUBLIC, Role.ANONYMOUS),
        (Mode.PUBLIC, Role.SIGNED_IN),
        (Mode.PUBLIC, Role.OWNER),
    ]
    rows = [["", "`local`, `server`", *(f"`public`, {role}" for _, role in columns[1:])], ["---"] * 5]
    for action in Action:
        rows.append([action, *(in_words(rule(action, mode, role)) for mode, role in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@dataclass(frozen=True)
class _Words:
    """what  the action as a sentence's beginning · each  one time of it, of many · why  it is not for
    everybody · instead  what to do then"""

    what: str
    each: str
    why: str = ""
    instead: str = ""


_RECORDED = "The recorded examples need no model."
_OWN_COPY = "On a copy of your own, or on your own computer, it works: `python app.py`."
_WORDS = {
    Action.CALL: _Words("Asking", "requests", instead=_RECORDED),
    Action.SIGN_IN: _Words("Signing in", "tries"),
    Action.UPLOAD: _Words("Uploading", "uploads", instead="A text can be pasted meanwhile."),
    Action.LOOK_UP: _Words("Looking things up", "searches", instead=_RECORDED),
    Action.PREVIEW: _Words("Looking at a text's chunks", "previews", instead=_RECORDED),
    Action.GENERATE: _Words("Writing", "texts", instead=_RECORDED),
    Action.SCORE: _Words("Scoring a text", "readings", instead=_RECORDED),
    Action.COMPARE: _Words("Comparing", "comparisons", instead=_RECORDED),
    Action.OPEN_TRACE: _Words("Opening a trace", "traces", instead=_RECORDED),
    Action.MAKE_DATASTORE: _Words(
        "Making a datastore", "datastores", instead="The bundled ones can be read meanwhile."
    ),
    Action.CHANGE_DATASTORE: _Words(
        "Changing a datastore", "changes", instead="What is in it can be read meanwhile."
    ),
    Action.EXPORT_DATASTORE: _Words("Exporting a datastore", "exports", instead=_OWN_COPY),
    Action.IMPORT_DATASTORE: _Words(
        "Importing a datastore",
        "imports",
        "an archive from a stranger can hold anything and be any size",
        f"Paste or upload the texts themselves. {_OWN_COPY}",
    ),
    Action.FETCH_MODEL: _Words(
        "Fetching a model",
        "fetches",
        "all visitors share one disk. The server's owner allows it with RETRO_ALLOW_FETCH=1",
        "On your own computer the page fetches models.",
    ),
    Action.TRAIN: _Words(
        "Training",
        "runs",
        "a run keeps both processors busy for minutes, and all visitors share them",
        "Duplicate this Space, or run the command on your own computer.",
    ),
    Action.MANAGE_RUN: _Words(
        "Changing a run",
        "changes",
        "the runs here are not yours",
        "Duplicate this Space, or train on your own computer.",
    ),
    Action.EVALUATE: _Words(
        "Evaluating",
        "evaluations",
        "an evaluation keeps both processors busy for minutes, and all visitors share them",
        "The recorded evaluations are here to be read; the command runs one on your own computer.",
    ),
}


@dataclass(frozen=True)
class Visitor:
    """owner  who that is, unguessable and made by the server; what a visitor makes belongs to it
    rule      what `permit` granted, with its limits
    keeps     whether the visitor can come back to what was made: False where the browser sends no cookie
    accounts  other owners that are the same person: what was made before signing in
    """

    owner: str
    mode: Mode
    role: Role
    rule: Rule = FREE
    keeps: bool = True
    accounts: tuple[str, ...] = ()

    @property
    def sees_everything(self) -> bool:
        return self.mode is not Mode.PUBLIC

    def owns(self, owner: str | None) -> bool:
        """Whether what belongs to `owner` belongs to this visitor."""
        return self.sees_everything or owner in (self.owner, *self.accounts)

    def may_see(self, name: str) -> bool:
        """Whether a datastore, run or measurement of this name is the visitor's or everybody's."""
        whose = owners.mark_of(name)
        return whose is None or self._marked(whose)

    def may_change(self, name: str) -> bool:
        whose = owners.mark_of(name)
        if whose is None:
            return self.role is Role.OWNER
        return self._marked(whose)

    def expect_tokens(self, count: int) -> None:
        """Raises InputError for more new tokens than this visitor may have written."""
        if self.rule.tokens and count > self.rule.tokens:
            raise InputError(
                f"Up to {self.rule.tokens} new tokens are written here, got {count}. Choose fewer under "
                "Settings."
            )

    def names(self, name: str) -> str:
        """What a new thing called `name` is called on the disk."""
        if self.role is Role.OWNER:
            return name
        if len(name) > 64 - owners.MARK_LENGTH:
            raise InputError(f"Expected a name of at most {64 - owners.MARK_LENGTH} characters here.")
        return owners.mark(name, self.owner)

    def _marked(self, whose: str) -> bool:
        return self.sees_everything or any(one.startswith(whose) for one in (self.owner, *self.accounts))


LOCAL_OWNER = "local"
_NO_COOKIE = (
    "{what} needs this page's cookie: by it, what you make stays yours. Your browser did not send it. Open "
    "the page {where}, or allow its cookies."
)


def mode() -> Mode:
    return Mode(settings.mode())


def visitor(request: Any = None) -> Visitor:
    """Who asks. request: of Gradio; None where nobody asks but the server itself"""
    now = mode()
    if now is not Mode.PUBLIC:
        return Visitor(LOCAL_OWNER, now, Role.OWNER)
    cookies = getattr(request, "cookies", None) or {}
    found = next(
        filter(None, (owners.owner_of(cookies.get(n)) for n in (owners.SECURE_COOKIE, owners.COOKIE))), None
    )
    account = _account(request)
    if account:
        role = Role.OWNER if account == settings.space_author() else Role.SIGNED_IN
        return Visitor(owners.owner_of_account(account), now, role, accounts=(found,) if found else ())
    if found:
        return Visitor(found, now, Role.ANONYMOUS)
    return Visitor(owners.stranger(), now, Role.ANONYMOUS, keeps=False)


def expect_room(who: Visitor, kept: int) -> None:
    """Raises InputError if a visitor who has `kept` things already may not keep another."""
    if who.rule.kept and kept >= who.rule.kept:
        raise InputError(
            f"{who.rule.kept} are kept for a visitor here, and you have {kept}. Remove one; each is removed "
            f"{in_minutes(who.rule.keep_minutes)} after it was last used."
        )


def keep_minutes(name: str) -> int:
    """After how many minutes without use something of this name is removed, or what is made under it; 0 if
    never."""
    whose = owners.find_mark(name)
    if whose is None:
        return 0
    role = Role.SIGNED_IN if whose.startswith(owners.ACCOUNT) else Role.ANONYMOUS
    return rule(Action.MAKE_DATASTORE, Mode.PUBLIC, role).keep_minutes


def in_minutes(count: int) -> str:
    return f"{count} minutes" if count < 120 else f"{count // 60} hours"


def permit(action: Action, request: Any = None, *, counts: bool = True) -> Visitor:
    """Who asks, if they may do this now.

    counts  whether this is one of the times that are counted; False for looking at what goes on already

    Raises InputError with what is not allowed here, why, and what to do instead.
    """
    who = visitor(request)
    granted = rule(action, who.mode, who.role)
    if not granted.allowed:
        raise InputError(refusal(action, who))
    if granted.keep_minutes and not who.keeps:
        raise InputError(_NO_COOKIE.format(what=_WORDS[action].what, where=_own_tab()))
    if counts:
        _count(action, granted, _counted_as(who, request))
    return Visitor(who.owner, who.mode, who.role, granted, who.keeps, who.accounts)


def refusal(action: Action, who: Visitor | None = None) -> str:
    """Why this may not be done here, in words; empty where it may."""
    who = who or visitor()
    if rule(action, who.mode, who.role).allowed:
        return ""
    words = _WORDS[action]
    sign_in = rule(action, who.mode, Role.SIGNED_IN).allowed and can_sign_in()
    first = "Sign in for a small one. " if sign_in else ""
    return f"{words.what} is not possible on this public page: {words.why}. {first}{words.instead}"


def _own_tab() -> str:
    address = settings.space_host()
    return f"in a tab of its own (https://{address})" if address else "anew"


def on_a_space() -> bool:
    return bool(settings.space())


def of_strangers() -> Rule | None:
    """How much of their own visitors may have here; None where there are no strangers."""
    return rule(Action.MAKE_DATASTORE, Mode.PUBLIC, Role.ANONYMOUS) if mode() is Mode.PUBLIC else None


def can_sign_in() -> bool:
    """On a Space with `hf_oauth: true`. Elsewhere Gradio would let anybody in as anybody, so nobody is."""
    return bool(settings.space() and settings.has_oauth())


def _account(request: Any) -> str | None:
    """The name of the account that signed in, from the session that Gradio's own login sealed."""
    if not can_sign_in():
        return None
    inner = getattr(request, "request", None) or request
    session = inner.scope.get("session") if hasattr(inner, "scope") else None
    info = session.get("oauth_info") if session else None
    if not isinstance(info, dict) or info.get("expires_at", 0) < time.time():
        return None
    name = (info.get("userinfo") or {}).get("preferred_username")
    return name if isinstance(name, str) and name else None


# ---- Counting


_counting = threading.Lock()
_times: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()  # (action, of whom), used last is last
_MOST_COUNTED = 20_000  # visitors and actions that are remembered; whoever was silent longest is forgotten
_EVERYBODY = "everybody"


def _count(action: Action, granted: Rule, whom: str) -> None:
    limits = [
        (whom, granted.a_minute, 60.0, "a minute"),
        (whom, granted.an_hour, 3600.0, "an hour"),
        (_EVERYBODY, granted.everybody, 60.0, "a minute for all visitors together"),
    ]
    limits = [limit for limit in limits if limit[1]]
    now = time.monotonic()
    with _counting:
        for key, most, seconds, span in limits:
            times = _times.setdefault((action, key), deque())
            while times and times[0] < now - 3600:
                times.popleft()
            recent = [at for at in times if at > now - seconds]
            if len(recent) >= most:
                wait = recent[-most] + seconds - now
                raise InputError(_too_often(action, most, span, wait))
        for key in {limit[0] for limit in limits}:
            _times[action, key].append(now)
            _times.move_to_end((action, key))
        while len(_times) > _MOST_COUNTED:
            _times.popitem(last=False)


def forget_counts() -> None:
    with _counting:
        _times.clear()


def _too_often(action: Action, most: int, span: str, wait: float) -> str:
    words = _WORDS[action]
    left = f"{max(1, round(wait))} s" if wait < 90 else f"{round(wait / 60)} minutes"
    return f"{most} {words.each} {span} are free here; try again in {left}. {words.instead}".rstrip()


def _counted_as(who: Visitor, request: Any) -> str:
    """Accounts count for themselves; others by where they come from, as a cookie is easily thrown away."""
    return who.owner if who.role is Role.SIGNED_IN else address(request)


def place_in_line(request: Any) -> tuple[str, int]:
    """(who waits, how often they may at the same time; 0 is as often as they like)."""
    who = visitor(request)
    most = settings.IN_LINE_EACH if who.mode is Mode.PUBLIC and who.role is not Role.OWNER else 0
    return _counted_as(who, request), most


def address(request: Any) -> str:
    """Where a request comes from, as far as it can be believed; of IPv6 the network.

    Behind a proxy it is the last address in X-Forwarded-For that is not of a private network: whoever asks
    can write what they like there, but only before what the proxies add.
    """
    client = getattr(request, "client", None)
    found = getattr(client, "host", None) or ""
    if settings.behind_proxy():
        headers = getattr(request, "headers", None) or {}
        for said in reversed((headers.get("x-forwarded-for") or "").split(",")):
            try:
                if ipaddress.ip_address(said.strip()).is_global:
                    found = said.strip()
                    break
            except ValueError:
                break  # what stands before it was not written by a proxy
    try:
        parsed = ipaddress.ip_address(found)
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network(f"{parsed}/64", strict=False)) if parsed.version == 6 else str(parsed)
