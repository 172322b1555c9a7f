"""`tidings services` shows what is running."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.process import Process
from tidings import App, Message, ServiceError

Call = Callable[..., tuple[int, str, str]]
Start = Callable[..., Process]


@pytest.fixture
def name(subject: str) -> str:
    """The name of a service that no other test uses."""
    return f"cli-{subject.replace('.', '-')}"


@pytest.fixture
def service(nats_server: Any, name: str, subject: str, start: Start) -> Iterator[App]:
    """An app that has answered one request and failed with another."""
    app = App(
        name,
        servers=nats_server.url,
        version="1.2.0",
        description="adds\x1b[2J",
        metadata={"team": "billing"},
    )

    @app.listen(subject)
    async def add(numbers: list[int], msg: Message[list[int]]) -> dict[str, int]:
        if not numbers:
            raise ServiceError(400, "nothing to add")
        return {"sum": sum(numbers)}

    with app:
        app.request_sync(subject, [1, 2])
        with pytest.raises(ServiceError):
            app.request_sync(subject, [])
        yield app


def test_ls_shows_each_service_once(call: Call, service: App, name: str) -> None:
    code, out, err = call("services", "ls")
    [line] = [line for line in out.splitlines() if f"{name} " in line]
    assert code == 0
    assert err == ""
    assert line.split() == [name, "1.2.0", r"adds\x1b[2J", "1", "1"]


def test_ping_shows_each_instance(call: Call, service: App, name: str) -> None:
    code, out, _ = call("services", "ping", name)
    head, line = out.splitlines()
    assert code == 0
    assert head.split() == ["SERVICE", "VERSION", "ID", "ROUND", "TRIP"]
    assert line.split()[:3] == [name, "1.2.0", service.instance_id]
    assert line.split()[4] in ("us", "ms", "s")


def test_info_shows_endpoints_and_metadata(
    call: Call, service: App, name: str, subject: str
) -> None:
    code, out, _ = call("services", "info", name, service.instance_id)
    assert code == 0
    for words in (f"{name} 1.2.0", "team: billing", r"adds\x1b[2J", f"add: {subject}", "array"):
        assert words in out
    assert "\x1b" not in out


def test_stats_shows_counts_times_and_the_last_error(call: Call, service: App, name: str) -> None:
    code, out, _ = call("services", "stats", name)
    head, line = out.splitlines()
    assert code == 0
    assert "ServiceError (error id " in line
    counts = line.partition(")")[2].split()
    assert counts[:2] == ["2", "1"]
    assert counts[-3:] == ["0", "0", "0"]
    assert head.split()[-8:] == (
        ["REQUESTS", "ERRORS", "AVERAGE", "P50", "P99", "PENDING", "RUNNING", "DROPPED"]
    )


@pytest.mark.parametrize("command", ["ping", "info", "stats"])
def test_json_is_for_programs(call: Call, service: App, name: str, command: str) -> None:
    code, out, _ = call("services", command, name, "--json")
    [found] = json.loads(out)
    assert code == 0
    assert (found["name"], found["id"]) == (name, service.instance_id)
    assert out.isascii()
    assert "\x1b" not in out


def test_ls_as_json_counts_instances(call: Call, service: App, name: str) -> None:
    _, out, _ = call("services", "ls", "--json")
    [found] = [each for each in json.loads(out) if each["name"] == name]
    assert found == {
        "name": name,
        "version": "1.2.0",
        "instances": 1,
        "endpoints": 1,
        "description": "adds\x1b[2J",
    }


@pytest.mark.parametrize("command", ["ping", "info", "stats"])
def test_a_service_that_is_not_there_is_exit_code_1(
    call: Call, nats_server: Any, name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    shown = f"tidings: no service named {name} answered\n"
    assert call("services", command, name) == (1, "", shown)
    assert call("services", command, name, "--json") == (1, "[]\n", shown)


def test_without_services_ls_says_so(
    call: Call, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", server.url)
    assert call("services", "ls") == (1, "", "tidings: no service answered\n")


def test_a_wrong_name_is_a_wrong_call(
    call: Call, nats_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    code, _, shown = call("services", "info", "order service")
    assert code == 2
    assert "order-service" in shown


def test_without_a_server_it_is_one_line(call: Call) -> None:
    code, _, shown = call("services", "ls", "--servers", "nats://127.0.0.1:1")
    assert code == 1
    assert len(shown.splitlines()) == 1


def test_commands_of_the_command_line_are_no_services(
    call: Call, start: Start, service: App, subject: str
) -> None:
    process = start("sub", f"{subject}.x")
    process.wait_for("listening on")
    _, out, _ = call("services", "ls", "--json")
    assert not [each["name"] for each in json.loads(out) if each["name"].startswith("tidings")]
