"""What an app has declared, as a short table for the start of `tidings run`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidings.app import App
from tidings.functions import function_name
from tidings.handlers.listener_spec import ListenerSpec
from tidings.handlers.task_spec import TaskSpec
from tidings.internals import plan_of
from tidings.jetstream.consumer.instances import consumer_names
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.subject import has_wildcard
from tidings.text import printable

from .console import on_terminal, optional_output, plain_table, say, table

ROWS = 8  # rows of each kind
WIDTH = 40  # characters of a cell
NONE = "-"

Row = tuple[str, str, str, str]

_NO_VERSION = "0.0.0"  # the default: the app has not declared a version

_COLUMNS = ("", "subject", "queue or durable", "handler")
_STYLES = ("cyan", "bold", "", "green")


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervised process tells its supervisor about its app.

    Attributes:
        service: the app's name.
        version: the app's version.
        rows: the rows of the table, cut to what is shown.
        request_subject: a subject on which the app answers; None if there is none.
    """

    service: str
    version: str
    rows: tuple[Row, ...]
    request_subject: str | None

    def show(self) -> None:
        """Print the table. A failed write is ignored."""
        version = "" if self.version == _NO_VERSION else self.version
        title = " ".join(map(printable, filter(None, (self.service, version))))
        with optional_output():
            if not self.rows:
                say(title, style="bold")
            elif on_terminal():
                say(title, style="bold")
                table(_COLUMNS, self.rows, numbers=0, styles=_STYLES)
            else:  # in one piece, because handlers may print at the same time
                say("\n".join([title, *plain_table(_COLUMNS, self.rows, numbers=0)]))


def overview_of(app: App) -> Overview:
    """Return what an app has declared."""
    plan = plan_of(app)
    consumers = plan.declared_consumers
    names = consumer_names(app.service_name, consumers)
    rows = [
        *_cut(
            "listener",
            [
                (", ".join(spec.subjects), queue, spec.name)
                for spec, queue in zip(plan.listeners, plan.queue_groups, strict=True)
            ],
        ),
        *_cut(
            "consumer",
            [
                (_source(spec), name or "(ordered)", spec.name)
                for spec, name in zip(consumers, names, strict=True)
            ],
        ),
        *_cut(
            "watch",
            [(f"{spec.bucket} {spec.shown_keys}", "", spec.name) for spec in plan.watches],
        ),
        *_cut("task", [(_times(spec), "", spec.name) for spec in plan.tasks]),
        *_cut(
            "cron",
            [(str(spec.schedule), spec.name, function_name(spec.function)) for spec in plan.crons],
        ),
        *_cut(
            "leader",
            [(spec.lock_name(app.service_name), "", spec.name) for spec in plan.leaders],
        ),
    ]
    return Overview(
        service=app.service_name,
        version=app.version,
        rows=tuple(rows),
        request_subject=_request_subject(plan.listeners),
    )


def _cut(kind: str, cells: Sequence[tuple[str, str, str]]) -> list[Row]:
    """Return the first rows of a kind, and one that counts the rest."""
    rows = [(kind, _cell(on), _cell(by), _cell(name)) for on, by, name in cells[:ROWS]]
    if len(cells) > ROWS:
        rows.append((kind, f"... and {len(cells) - ROWS} more", "", ""))
    return rows


def _cell(text: str) -> str:
    text = printable(text) or NONE
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _source(spec: ConsumerSpec) -> str:
    return " ".join((spec.stream, *spec.subjects))


def _times(spec: TaskSpec) -> str:
    if spec.cron is not None:
        return str(spec.cron)
    return "once" if spec.interval is None else f"every {spec.interval:g} s"


def _request_subject(listeners: Sequence[ListenerSpec]) -> str | None:
    """Return a subject to which a request can be sent as it is."""
    for spec in listeners:
        for subject in () if spec.no_reply else spec.subjects:
            if not has_wildcard(subject):
                return subject
    return None
