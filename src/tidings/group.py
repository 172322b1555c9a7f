"""Group: declarations in another module, with a common prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from tidings.declarations import Declarations
from tidings.errors import ConfigError
from tidings.handlers.hook_checks import check_hooks, check_instance
from tidings.handlers.listener_spec import ListenerSpec
from tidings.handlers.middleware import Middleware
from tidings.handlers.task_spec import TaskSpec
from tidings.keywords import called
from tidings.subject import check_pattern, check_queue

# Most services use no stream. What is for streams is imported where it is first declared.
if TYPE_CHECKING:
    from tidings.jetstream.consumer.spec import ConsumerSpec
    from tidings.jetstream.kv.watchers import WatchSpec
    from tidings.jetstream.locks.leader import LeaderSpec
    from tidings.jetstream.schedule.spec import CronSpec


S = TypeVar("S", "ConsumerSpec", "WatchSpec", "CronSpec")


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """What a group declares."""

    listeners: tuple[ListenerSpec, ...]
    consumers: tuple[ConsumerSpec, ...]
    watches: tuple[WatchSpec, ...]
    tasks: tuple[TaskSpec, ...]
    crons: tuple[CronSpec, ...]
    leaders: tuple[LeaderSpec, ...]


@called("Group", hint='Group("orders")')
class Group(Declarations):
    """Handlers and tasks that are declared in another module. `App.include` adds them to an app.

    Args:
        prefix: the first tokens of the subjects of its listeners; "" for none.
        queue: the first word of the queue groups of listeners that set none: `orders` gives
            `orders.<handler>`. "" for no groups; None for the app's `queue`.
        middlewares: middlewares, as classes or instances, around the handlers of this group only.
            They run inside those of the app.

    Raises:
        SubjectError: if the prefix is not a subject or ends with `>`, or if NATS does not allow the
            queue group.
        ConfigError: if a middleware is not a Middleware, or has a hook that would not run.

    Example:
        ```python
        from tidings import App, Group

        orders = Group("orders")

        @orders.listen("created")
        async def created(msg):
            print(msg.subject)                  # orders.created

        app = App("billing")
        app.include(orders)
        ```
    """

    def __init__(
        self,
        prefix: str,
        *,
        queue: str | None = None,
        middlewares: Sequence[Middleware | type[Middleware]] = (),
    ) -> None:
        super().__init__()
        if prefix != "":
            check_pattern(prefix)
            check_pattern(f"{prefix}.x")
        if queue is not None:
            check_queue(queue)
        self.prefix = prefix
        self.queue = queue
        self._middlewares = tuple(map(_instance, middlewares))
        self._included = False

    def __repr__(self) -> str:
        return f"<Group {self.prefix!r}>"

    def include_done(self) -> None:
        """Accept no more declarations, because an app has included the group."""
        self._included = True

    def _declaring(self, call: str) -> None:
        if self._included:
            raise ConfigError(
                f"{call}: an app has already included this group. Declare everything before "
                f"app.include(...)"
            )

    def declared(self) -> Declared:
        """Return what the group declares, for `App.include`.

        The listeners have the prefix. All handlers have the middlewares of the group.
        """
        return Declared(
            listeners=tuple(map(self._placed, self._listener_specs)),
            consumers=tuple(map(self._surrounded, self._consumer_specs)),
            watches=tuple(map(self._surrounded, self._watch_specs)),
            tasks=tuple(self._task_specs),
            crons=tuple(map(self._surrounded, self._cron_specs)),
            leaders=tuple(self._leader_specs),
        )

    def _surrounded(self, spec: S) -> S:
        return msgspec.structs.replace(spec, middlewares=self._middlewares)

    def _placed(self, spec: ListenerSpec) -> ListenerSpec:
        dot = f"{self.prefix}." if self.prefix else ""
        return msgspec.structs.replace(
            spec,
            subjects=tuple(f"{dot}{subject}" for subject in spec.subjects),
            group_queue=self.queue,
            prefix=self.prefix,
            middlewares=self._middlewares,
        )


def _instance(middleware: Middleware | type[Middleware]) -> Middleware:
    made = middleware() if isinstance(middleware, type) else middleware
    if not isinstance(made, Middleware):
        raise ConfigError(f"middlewares must contain subclasses of Middleware, got {middleware!r}")
    check_hooks(type(made), Middleware)
    check_instance(made)
    return made
