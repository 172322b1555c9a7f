"""The examples for web frameworks, in the real frameworks and under a real web server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from support.ports import free_port
from support.process import Process
from support.waits import wait_until
from tidings import App, ServiceError
from tidings.server import NATSServer

ROOT = Path(__file__).parents[1]
GREETING = {"hello": "Ada"}
AGAIN = {"error": "try again later"}


class Site(NamedTuple):
    """An example and its web server: the command, and the folder to run it in."""

    command: list[str]
    folder: Path = ROOT


# gunicorn imports the example before it forks its workers; uvicorn's workers import it themselves.
GUNICORN = ["gunicorn", "--preload", "--workers", "2", "--threads", "4"]
UVICORN = ["uvicorn", "--workers", "2"]
SITES = {
    "flask": Site([*GUNICORN, "examples.flask_app:web"]),
    "django": Site([*GUNICORN, "shop.wsgi"], ROOT / "examples" / "django_project"),
    "fastapi": Site([*UVICORN, "examples.fastapi_app:api"]),
}


@pytest.fixture
def server() -> Iterator[NATSServer]:
    """A nats-server of the test's own, to kill and restart. One example has a stream."""
    with NATSServer(jetstream=True) as own:
        yield own


@pytest.fixture
def service(server: NATSServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """The service that the examples call, on a server of the test's own."""
    monkeypatch.setenv("NATS_URL", server.url)
    app = App("greeter", servers=server.url, reconnect_time_wait=0.1)

    @app.listen("greet")
    async def greet(msg: Any) -> dict[str, str]:
        name = msg.data["name"]
        if name.isdigit():
            raise ServiceError(int(name), f"no {name}")
        return {"hello": name}

    with app:
        yield app


@pytest.fixture
def serve(service: App) -> Iterator[Callable[[Site], Process]]:
    """Serves an example from two worker processes."""
    started: list[Process] = []

    def serve(site: Site) -> Process:
        port = str(free_port())
        place = ["--bind", f"127.0.0.1:{port}"] if "gunicorn" in site.command else ["--port", port]
        command = [sys.executable, "-m", *site.command, *place]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        started.append(Process(command, cwd=site.folder, env=environment))
        return started[-1]

    yield serve
    for process in started:
        for child in psutil.Process(process.popen.pid).children(True) if is_up(process) else []:
            child.kill()
        process.close()


def is_connected(process: psutil.Process, server: NATSServer) -> bool:
    connections = process.net_connections("tcp")
    return any(each.raddr and each.raddr.port == server.port for each in connections)


def is_up(process: Process) -> bool:
    return process.popen.poll() is None


def client_of(process: Process) -> httpx.Client:
    url = process.wait_for(r"(?:Listening at:|running on) (http://[\w.:]+)")[1]
    process.wait_for("Booting worker|startup complete", 2)
    return httpx.Client(base_url=url, timeout=20)


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_worker_processes_connect_for_themselves_and_end_in_order(
    site: Site, serve: Callable[[Site], Process], server: NATSServer
) -> None:
    process = serve(site)
    with client_of(process) as client:
        for _ in range(20):
            assert client.get("/greet/Ada").json() == GREETING
        assert client.get("/greet/404").status_code == 404
        assert client.get("/greet/503").status_code == 502
    parent = psutil.Process(process.popen.pid)
    assert not is_connected(parent, server)
    assert any(is_connected(child, server) for child in parent.children(recursive=True))
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "Traceback" not in process.text


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_a_site_is_unavailable_while_nats_is_and_recovers(
    site: Site, serve: Callable[[Site], Process], server: NATSServer
) -> None:
    process = serve(site)
    with client_of(process) as client:
        server.kill()
        wait_until(lambda: client.get("/greet/Ada").status_code == 503)
        assert client.get("/greet/Ada").json() == AGAIN
        server.restart()
        wait_until(lambda: client.get("/greet/Ada").status_code == 200)
    assert process.stop() == 0


@pytest.mark.parametrize("name", ["flask", "django"])
def test_a_site_without_a_lifespan_starts_while_nats_is_away(
    name: str, serve: Callable[[Site], Process], server: NATSServer
) -> None:
    server.kill()
    with client_of(serve(SITES[name])) as client:
        response = client.get("/greet/Ada")
        assert (response.status_code, response.json()) == (503, AGAIN)
        server.restart()
        wait_until(lambda: client.get("/greet/Ada").status_code == 200)


def test_fastapi_does_not_start_without_a_server(
    serve: Callable[[Site], Process], server: NATSServer
) -> None:
    server.kill()
    process = serve(Site(["uvicorn", "examples.fastapi_app:api"]))
    assert process.wait() != 0
    process.wait_for("ConnectError")


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_a_site_is_unavailable_while_the_service_is(
    site: Site, serve: Callable[[Site], Process], service: App
) -> None:
    with client_of(serve(site)) as client:
        assert client.get("/greet/Ada").status_code == 200
        service.disconnect_sync()
        assert client.get("/greet/Ada").status_code == 503


def test_a_management_command_of_django_needs_no_server(service: App) -> None:
    folder = SITES["django"].folder
    process = Process(
        [sys.executable, "manage.py", "check"],
        cwd=folder,
        env={**os.environ, "NATS_URL": "nats://127.0.0.1:1", "PYTHONPATH": str(ROOT / "src")},
    )
    assert process.wait() == 0
    process.wait_for("no issues")


def test_a_stream_is_read_by_a_browser_for_as_long_as_it_stays(
    service: App, serve: Callable[[Site], Process]
) -> None:
    command = ["uvicorn", "--timeout-graceful-shutdown", "1", "examples.order_events:api"]
    process = serve(Site(command))
    with client_of_one(process) as client:
        with client.stream("GET", "/events") as response:
            lines = response.iter_lines()
            assert next(lines) == ": connected"
            assert client.post("/orders", json={"id": 7}).json() == {"id": 1}
            assert events(lines, 1) == [("1", "orders.created", '{"id": 7}')]
        wait_until(lambda: not consumers(service))  # the browser has left
        for number in (8, 9):
            client.post("/orders", json={"id": number})
        with client.stream("GET", "/events", headers={"Last-Event-ID": "1"}) as response:
            came = events(response.iter_lines(), 2)
        assert [each[2] for each in came] == ['{"id": 8}', '{"id": 9}']
    process.stop()
    process.wait_for("Application shutdown complete")
    assert "Traceback" not in process.text


def client_of_one(process: Process) -> httpx.Client:
    url = process.wait_for(r"running on (http://[\w.:]+)")[1]
    return httpx.Client(base_url=url, timeout=20)


def events(lines: Iterator[str], count: int) -> list[tuple[str, ...]]:
    """Return the id, the name and the data of the next events."""
    found = []
    while len(found) < count:
        line = next(lines)
        if line.startswith("id: "):
            found.append(
                tuple(each.partition(": ")[2] for each in (line, next(lines), next(lines)))
            )
    return found


def consumers(service: App) -> list[str]:
    answer = service.js.run_sync(service.js.api.call("CONSUMER.NAMES.ORDERS"))
    return answer["consumers"] or []
