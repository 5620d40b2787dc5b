"""Long work on datastores that goes on when the page goes away, since a handler ends with its page.

A task is a generator, drained by a thread; what it yields is a value of `StatusLine`, what it returns is the
task's result. Its visitor, who has its id, may watch it and cancel it; the page keeps the id in the browser
and so finds the task again after a reload. After a restart of the server the id leads to nothing:
what was being made is then on the disk or it is not, and the page says which.
"""

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from app import policy, settings
from app.errors import OUR_FAULT, sentence
from app.policy import Visitor
from indexing.errors import InputError, RetroError

WAITING, RUNNING, DONE, CANCELLED, FAILED = "waiting", "running", "done", "cancelled", "failed"
_CANCELLED_LINE = "Cancelled; nothing was changed."
_log = logging.getLogger(__name__)
_changed = threading.Condition()
_tasks: OrderedDict[str, "Task"] = OrderedDict()  # oldest first

Work = Callable[[], Generator[dict[str, Any], None, Any]]


@dataclass(eq=False)
class Task:
    """kind: which button began it · subject: the datastore's name · owner: whose it is · line: of progress,
    for `StatusLine`"""

    id: str
    kind: str
    subject: str
    owner: str
    state: str = WAITING
    line: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    cancel_asked: bool = False
    changes: int = 0

    @property
    def active(self) -> bool:
        return self.state in (WAITING, RUNNING)


def start(kind: str, subject: str, work: Work, who: Visitor | None = None) -> Task:
    """Begin, or wait in line. Raises InputError if too many wait already."""
    who = who or policy.visitor()
    with _changed:
        mine = [task for task in _tasks.values() if task.active and task.owner == who.owner]
        if who.rule.at_once and len(mine) >= who.rule.at_once:
            raise InputError(
                f"Work on {mine[0].subject!r} is still going on, and a visitor does one thing at a time "
                "here. Wait until it has finished, or cancel it."
            )
        line = sum(task.active for task in _tasks.values())
        if line >= settings.TASKS_AT_ONCE + settings.TASKS_WAITING:
            raise InputError(
                f"The server is busy: {line} datastores are being made or changed, and no more can wait. "
                "What you entered is kept; try again in a few minutes."
            )
        task = Task(secrets.token_urlsafe(16), kind, subject, who.owner)
        _tasks[task.id] = task
        for finished in [task for task in _tasks.values() if not task.active][: -settings.TASKS_KEPT]:
            del _tasks[finished.id]
    threading.Thread(target=_run, args=(task, work), daemon=True, name=f"{kind} {subject}").start()
    return task


# What a browser is given to remember when there is nothing: Gradio does not store None over something.
NOTHING: dict[str, str] = {}


def memory(task: "Task", active: bool) -> dict[str, str]:
    """What a browser shall remember of a task, see `remembered`."""
    return {"task": task.id, "name": task.subject, "kind": task.kind} if active else NOTHING


def remembered(known: Any, who: Visitor | None = None) -> tuple[str, "Task | None"] | None:
    """What a browser remembers of a task, which may be anything: (its subject, the task if this server still
    knows it); None where it remembers nothing."""
    if not isinstance(known, dict):
        return None
    name, task = known.get("name"), known.get("task")
    return (name, find(task, who)) if isinstance(name, str) and isinstance(task, str) else None


def find(task_id: Any, who: Visitor | None = None) -> Task | None:
    """None if there is no such task, or no longer, or it is another's."""
    who = who or policy.visitor()
    with _changed:
        task = _tasks.get(task_id) if isinstance(task_id, str) else None
    return task if task and who.owns(task.owner) else None


def cancel(task_id: Any, who: Visitor | None = None) -> None:
    """Ask a task to end at its next step. What it was making is then not there, and nothing was changed."""
    task = find(task_id, who)
    if task is not None:
        with _changed:
            task.cancel_asked = True
            _changed.notify_all()


def watch(task: Task) -> Iterator[Task]:
    """The task whenever it has something new to say, at last when it has ended. Closing this leaves it be."""
    seen = -1
    while True:
        with _changed:
            while task.changes == seen:
                _changed.wait()
            seen, active = task.changes, task.active
        yield task
        if not active:
            return


def _run(task: Task, work: Work) -> None:
    if not _wait_for_a_place(task):
        return
    try:
        with closing(work()) as events:
            while True:
                try:
                    line = next(events)
                except StopIteration as end:
                    _say(task, DONE, task.line, end.value)
                    return
                if task.cancel_asked:
                    events.close()  # removes what is unfinished, before anybody is told
                    _say(task, CANCELLED, {"text": _CANCELLED_LINE})
                    return
                _say(task, RUNNING, line)
    except RetroError as error:
        _say(task, FAILED, {"text": sentence(error), "tone": "bad"})
    except Exception as error:
        _log.exception("A task failed", exc_info=error)
        _say(task, FAILED, {"text": OUR_FAULT, "tone": "bad"})


def _wait_for_a_place(task: Task) -> bool:
    """Whether it may begin; it may not if it was cancelled in line."""
    with _changed:
        while True:
            if task.cancel_asked:
                _say(task, CANCELLED, {"text": _CANCELLED_LINE})
                return False
            before = [other for other in _tasks.values() if other.active]
            place = before.index(task) - settings.TASKS_AT_ONCE + 1
            if place <= 0:
                task.state = RUNNING
                return True
            words = "next in line" if place == 1 else f"number {place} in line"
            line = {"text": f"Waiting for other visitors' datastores: {words}.", "tone": "busy"}
            if line != task.line:
                _say(task, WAITING, line)
            _changed.wait()


def _say(task: Task, state: str, line: dict[str, Any], result: Any = None) -> None:
    with _changed:
        task.state, task.line, task.result = state, line, result
        task.changes += 1
        _changed.notify_all()
