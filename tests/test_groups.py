"""Groups: listeners and tasks of another module, under a prefix, with their own queue and hooks."""

import sys
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import until
from tidings import App, ConfigError, Group, Middleware, SubjectError
from tidings.testing import NATSServer


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("groups", servers=nats_server.url, queue="app")


class Tag(Middleware):
    """Adds its name to the answer, on the way out."""

    def __init__(self, name: str = "tag") -> None:
        self.name = name

    async def listen_any(self, msg, callback):
        return [*await callback(msg), self.name]


async def answer(msg):
    return [msg.subject]


async def test_a_group_listens_under_its_prefix(app: App, subject: str) -> None:
    group = Group(subject)
    group.listen("created")(answer)
    group.listen(["a.*", "b.>"])(answer)
    app.include(group)
    async with app:
        for end in ("created", "a.x", "b.x.y"):
            found = await app.request(f"{subject}.{end}", response_data_type=list)
            assert found == [f"{subject}.{end}"]


async def test_a_group_without_prefix_listens_on_the_subjects_themselves(
    app: App, subject: str
) -> None:
    group = Group("")
    group.listen(subject)(answer)
    app.include(group)
    async with app:
        assert await app.request(subject, response_data_type=list) == [subject]


async def test_a_queue_of_its_own_begins_with_the_groups_or_the_apps(
    app: App, subject: str
) -> None:
    with_queue, without = Group("here", queue="group"), Group("there")
    with_queue.listen("a")(answer)
    with_queue.listen("b", queue="own")(answer)
    with_queue.listen("c", queue="")(answer)
    without.listen("d")(answer)
    app.include(with_queue)
    app.include(without)
    async with app:
        queues = [one.queue for one in app.stats().listeners]
    assert queues == ["group.here.answer", "own", "", "app.there.answer"]


async def test_a_groups_hooks_are_inside_the_apps_and_around_its_own_listeners_only(
    app: App, subject: str
) -> None:
    group = Group(subject, middlewares=[Tag, Tag("last")])
    group.listen("in")(answer)
    app.add_middleware(Tag, "app")
    app.listen(f"{subject}.out")(answer)
    app.include(group)
    async with app:
        inside = await app.request(f"{subject}.in", response_data_type=list)
        outside = await app.request(f"{subject}.out", response_data_type=list)
    assert inside == [f"{subject}.in", "tag", "last", "app"]
    assert outside == [f"{subject}.out", "app"]


async def test_a_groups_tasks_run(app: App) -> None:
    group = Group("")
    runs: list[int] = []
    group.task(interval=0.01)(lambda: runs.append(1))
    app.include(group)
    async with app:
        await until(lambda: len(runs) > 1)


async def test_other_options_of_a_groups_listener_hold(app: App, subject: str) -> None:
    inbox = Inbox()
    group = Group(subject)
    group.listen("a", data_type=int, no_reply=True)(inbox)
    app.include(group)
    async with app:
        await app.publish(f"{subject}.a", 7, reply_to="nobody")
        assert (await inbox.next()).data == 7
        await app.flush()
        assert app.stats().connection.sent == 1


async def test_one_group_serves_two_apps(nats_server: NATSServer, subject: str) -> None:
    group = Group(subject)
    group.listen("a")(answer)
    for name in ("one", "two"):
        app = App(name, servers=nats_server.url)
        app.include(group)
        async with app:
            assert await app.request(f"{subject}.a", response_data_type=list) == [f"{subject}.a"]


def test_the_decorators_return_the_function() -> None:
    group = Group("a")
    assert group.listen("b")(answer) is answer
    assert group.task()(test_the_decorators_return_the_function) is (
        test_the_decorators_return_the_function
    )


@pytest.mark.parametrize("prefix", [".", "a.", "a b", "a.>", 7])
def test_a_bad_prefix_is_a_subject_error(prefix: Any) -> None:
    with pytest.raises(SubjectError):
        Group(prefix)


def test_a_bad_subject_or_queue_is_found_where_it_is_written() -> None:
    with pytest.raises(SubjectError):
        Group("a").listen("b b")
    with pytest.raises(SubjectError):
        Group("a", queue="b b")


@pytest.mark.parametrize("middleware", [object, 7, Inbox()])
def test_what_is_no_middleware_is_a_config_error(middleware: Any) -> None:
    with pytest.raises(ConfigError, match="subclasses of Middleware"):
        Group("a", middlewares=[middleware])


def test_include_takes_a_group_and_nothing_else(app: App) -> None:
    with pytest.raises(ConfigError, match="takes a Group"):
        app.include(app)  # type: ignore[arg-type]  # the mistake


async def test_include_while_the_app_runs_is_a_config_error(app: App) -> None:
    async with app:
        with pytest.raises(ConfigError, match="already"):
            app.include(Group("a"))


def test_a_group_that_is_included_twice_is_a_warning_with_both_places(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group("orders")
    group.listen("created")(answer)
    app.include(group)
    first = line_here() - 1
    assert not caplog.messages
    app.include(group)
    second = line_here() - 1
    (text,) = caplog.messages
    assert "'orders' is included twice" in text
    assert f"at test_groups.py:{first} and at test_groups.py:{second}" in text


def test_a_group_may_be_included_in_several_apps(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group("orders")
    group.listen("created")(answer)
    app.include(group)
    App("another").include(group)
    assert not caplog.messages


def line_here() -> int:
    """The line of the call."""
    return sys._getframe(1).f_lineno
