"""`tidings cron`: what it lists, plans, applies, runs, pauses and refuses."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.waits import wait_until
from tidings import App

if TYPE_CHECKING:
    from support.command import Call, Start

_numbers = itertools.count(1)

Declare = Callable[..., str]

SOURCE = """
from tidings import App

app = App("NAME")
"""
REPORT = """
@app.cron("0 9 29 feb *", tz="Europe/Berlin")
async def report():
    print("report ran", flush=True)
"""
TICK = """
@app.cron("@every 90s")
def tick(): ...
"""


@pytest.fixture
def name() -> str:
    """The name of the test's service."""
    return f"clicron{next(_numbers)}"


@pytest.fixture
def declare(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, nats_server: Any
) -> Iterator[Declare]:
    """Writes a module with an app, which declares jobs; returns what names it."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    modules: list[str] = []

    def declare(*jobs: str) -> str:
        modules.append(f"jobs_{name}_{len(modules)}")
        source = SOURCE.replace("NAME", name) + "".join(jobs)
        (tmp_path / f"{modules[-1]}.py").write_text(source)
        return f"{modules[-1]}:app"

    yield declare
    for module in modules:
        sys.modules.pop(module, None)


def jobs(call: Call, target: str) -> list[dict[str, Any]]:
    """What `tidings cron ls --json` says of the app's service."""
    code, out, _ = call("cron", "ls", target, "--json")
    assert code == 0
    found: list[dict[str, Any]] = json.loads(out)
    return found


def test_a_plan_is_applied_once(call: Call, declare: Declare, name: str) -> None:
    target = declare(REPORT, TICK)
    code, out, _ = call("cron", "plan", target)
    assert code == 0
    assert f"stream CRON_{name}: create" in out
    assert "report: create 0 9 29 feb * (Europe/Berlin)" in out
    assert jobs(call, target) == []
    assert "applied: 2 schedules" in call("cron", "apply", target)[1]
    code, out, _ = call("cron", "apply", target)
    assert (code, out.splitlines()[-1]) == (0, "nothing to apply")
    assert [job["job"] for job in jobs(call, target)] == ["report", "tick"]


def test_a_changed_schedule_is_shown_and_written(call: Call, declare: Declare) -> None:
    call("cron", "apply", declare(REPORT))
    changed = declare(REPORT.replace("0 9", "30 8"))
    assert (
        "report: change 0 9 29 2 * (Europe/Berlin) -> 30 8 29 feb * (Europe/Berlin)"
        in call("cron", "plan", changed)[1]
    )
    call("cron", "apply", changed)
    assert jobs(call, changed)[0]["schedule"] == "30 8 29 2 *"


def test_jobs_are_listed_with_their_next_time(call: Call, declare: Declare, name: str) -> None:
    target = declare(REPORT, TICK)
    call("cron", "apply", target)
    report, tick = jobs(call, target)
    assert (report["service"], report["schedule"], report["tz"]) == (
        name,
        "0 9 29 2 *",
        "Europe/Berlin",
    )
    assert report["next"].endswith("-02-29T08:00:00+00:00")
    assert tick["next"] is not None
    _, out, _ = call("cron", "ls")
    assert "never started" in next(line for line in out.splitlines() if name in line)


def test_without_the_extra_the_times_are_missing_and_the_extra_is_named(
    call: Call, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = declare(REPORT)
    call("cron", "apply", target)
    monkeypatch.setitem(sys.modules, "cronsim", None)
    code, out, err = call("cron", "ls", target, "--json")
    assert (code, json.loads(out)[0]["next"]) == (0, None)
    assert "tidings[cron]" in err


def test_a_job_that_is_no_longer_declared_is_removed_only_when_asked(
    call: Call, declare: Declare
) -> None:
    call("cron", "apply", declare(REPORT, TICK))
    target = declare(REPORT)
    assert "tick: no longer declared" in call("cron", "plan", target)[1]
    call("cron", "apply", target)
    assert len(jobs(call, target)) == 2
    code, _, err = call("cron", "apply", target, "--prune")  # there is no terminal to ask on
    assert code == 2
    assert "Remove tick?" in err
    assert len(jobs(call, target)) == 2
    code, out, _ = call("cron", "apply", target, "--prune", "--yes")
    assert (code, out.splitlines()[-1]) == (0, "removed: 1 job")
    assert [job["job"] for job in jobs(call, target)] == ["report"]
    last = declare()
    assert "removed: 1 job" in call("cron", "apply", last, "--prune", "--yes")[1]
    assert jobs(call, last) == []


def test_yes_without_prune_is_refused(call: Call, declare: Declare) -> None:
    code, _, err = call("cron", "apply", declare(REPORT), "--yes")
    assert code == 2
    assert "--yes has no effect without --prune" in err


def test_a_service_runs_a_job_on_demand_and_not_while_it_is_paused(
    call: Call, declare: Declare, start: Start
) -> None:
    target = declare(REPORT)
    code, _, err = call("cron", "pause", target, "report")
    assert code == 2
    assert "start the service first" in err
    service = start("run", target)
    service.wait_for("cron .* report")
    assert call("cron", "run", target, "report")[0] == 0
    service.wait_for("report ran")
    assert "paused until" in call("cron", "pause", target, "report", "--for", "12h")[1]
    assert jobs(call, target)[0]["paused_until"] is not None
    call("cron", "run", target, "report")
    wait_until(lambda: jobs(call, target)[0]["waiting"] == 1)
    assert "report is not paused" in call("cron", "resume", target, "report")[1]
    service.wait_for("report ran", 2)
    assert jobs(call, target)[0]["paused_until"] is None
    call("cron", "pause", target, "report")
    _, out, _ = call("cron", "ls", target)
    assert out.splitlines()[-1].endswith("paused")
    assert service.stop() == 0
    again = start("run", target)  # a start does not end the pause
    again.wait_for("cron .* report")
    assert jobs(call, target)[0]["paused_until"] is not None
    assert again.stop() == 0


@pytest.mark.parametrize("command", ["run", "pause", "resume"])
def test_a_job_that_the_app_does_not_declare_is_named(
    call: Call, declare: Declare, command: str
) -> None:
    code, _, err = call("cron", command, declare(REPORT), "repot")
    assert code == 2
    assert "no job 'repot'; its jobs are: report" in err


def test_an_app_without_jobs_is_told(call: Call, declare: Declare) -> None:
    code, _, err = call("cron", "plan", declare())
    assert code == 2
    assert "declares no jobs" in err


def test_a_time_of_a_pause_that_is_none_is_refused(call: Call, declare: Declare) -> None:
    code, _, err = call("cron", "pause", declare(REPORT), "report", "--for", "soon")
    assert code == 2
    assert "write 90s, 30m, 12h or 7d" in err


def test_a_schedule_of_another_client_is_listed_without_control_characters(
    call: Call, declare: Declare, nats_server: Any, name: str
) -> None:
    target = declare(REPORT)
    call("cron", "apply", target)
    with App("client", servers=nats_server.url) as client:
        client.js.publish_sync(
            f"_cron.{name}.at.\x9b31mred",
            headers={
                "Nats-Schedule": "0 5/15 * * * *",
                "Nats-Schedule-Target": f"_cron.{name}.run.red",
            },
        )
        client.js.publish_sync(f"_cron.{name}.at.no-schedule")
    code, out, _ = call("cron", "ls", target)
    assert code == 0
    assert "\x9b" not in out
    assert "5/15 * * * *" in out
    assert "no-schedule" not in out
