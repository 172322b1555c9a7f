"""The files in examples/deployment: what systemd, Docker and Kubernetes do with them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.command import Start
from support.monitor import ask
from support.ports import free_port
from support.process import Process
from support.systemd import Systemd
from support.waits import wait_until
from tidings import App
from tidings.process.runner import END_GRACE

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "deployment"
DRAIN_TIMEOUT = App("default").drain_timeout
# A process ends within this time after SIGTERM: the documentation promises two more seconds.
GRACE = DRAIN_TIMEOUT + 2

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def copied_to(folder: Path) -> Path:
    """A folder with the service alone, as the image and the machine have it."""
    return Path(shutil.copy(FOLDER / "shipping.py", folder))


class Unit(configparser.RawConfigParser):
    """A systemd unit, in which an option may stand several times."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, allow_no_value=False, delimiters=["="])
        self.optionxform = str  # type: ignore[assignment,method-assign] # names keep their capitals
        self.read(path)


@pytest.fixture
def unit() -> Unit:
    return Unit(FOLDER / "shipping.service")


@pytest.fixture
def dockerfile() -> list[tuple[str, str]]:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    return [(word, rest) for line in lines if line for word, _, rest in [line.partition(" ")]]


@pytest.fixture
def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


@pytest.fixture
def pod(manifests: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return dict(only)


def test_a_process_ends_within_the_grace_that_the_examples_give_it() -> None:
    assert DRAIN_TIMEOUT + END_GRACE < GRACE


# systemd


def test_systemd_waits_as_long_as_a_drain_takes(unit: Unit) -> None:
    assert float(unit["Service"]["TimeoutStopSec"]) == GRACE


def test_systemd_accepts_the_unit(unit: Unit, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    text = (FOLDER / "shipping.service").read_text()
    text = text.replace("/opt/shipping/venv/bin/tidings", shutil.which("true") or "")
    (tmp_path / "shipping.service").write_text(text.replace("/opt/shipping", str(tmp_path)))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "shipping.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    own = Systemd(str(tmp_path / "notify"))
    yield own
    own.close()


def test_the_command_of_the_unit_notifies_systemd(
    unit: Unit, start: Start, systemd: Systemd, tmp_path: Path
) -> None:
    copied_to(tmp_path)
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/bin/tidings")
    assert unit["Service"]["Type"] == "notify"
    watchdog = int(unit["Service"]["WatchdogSec"]) * 1_000_000
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": str(watchdog)}
    process = start(*words, env={**environment, "TMPDIR": str(tmp_path)})
    systemd.wait_for(rf"^READY=1\nMAINPID={process.popen.pid}\n")
    systemd.wait_for("^WATCHDOG=1$")
    process.signal()
    systemd.wait_for("^STOPPING=1")
    assert process.wait() == 0


def test_a_wrong_command_is_not_started_again(unit: Unit, start: Start, tmp_path: Path) -> None:
    words = shlex.split(unit["Service"]["ExecStart"])[1:]
    assert str(start(*words, cwd=tmp_path).wait()) == unit["Service"]["RestartPreventExitStatus"]


# Docker


def test_the_image_is_of_a_python_that_tidings_is_tested_with(
    dockerfile: list[tuple[str, str]],
) -> None:
    images = {rest.split()[0] for word, rest in dockerfile if word == "FROM"}
    (version,) = {re.fullmatch(r"python:(3\.\d+)-slim", image)[1] for image in images}  # type: ignore[index] # a mismatch fails the test
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_last_stage_runs_no_pip_and_is_not_root(dockerfile: list[tuple[str, str]]) -> None:
    last = max(at for at, (word, _) in enumerate(dockerfile) if word == "FROM")
    words = [word for word, _ in dockerfile[last:]]
    assert "RUN" not in words
    user = dict(dockerfile[last:])["USER"]
    assert int(user.partition(":")[0]) > 0  # a number, so that runAsNonRoot can check it
    assert words.index("USER") < words.index("CMD")


def test_what_docker_copies_exists_and_the_code_comes_last(
    dockerfile: list[tuple[str, str]],
) -> None:
    sources = [rest.split()[0] for word, rest in dockerfile if word == "COPY" and rest[0] != "-"]
    assert sources == ["requirements.txt", "shipping.py"]  # new code keeps the layer of pip
    assert all((FOLDER / source).is_file() for source in sources)


def test_the_image_has_no_server_and_extras_that_exist() -> None:
    (line,) = (FOLDER / "requirements.txt").read_text().split()
    extras = set(re.fullmatch(r"tidings\[(.+)\]", line)[1].split(","))  # type: ignore[index] # a mismatch fails the test
    assert extras <= set(PROJECT["optional-dependencies"])
    assert extras.isdisjoint({"all", "server"})


@pytest.fixture
def port() -> int:
    """What stands for the port of the container, as several tests may run at the same time."""
    return free_port()


@pytest.fixture
def served(dockerfile: list[tuple[str, str]], start: Start, tmp_path: Path, port: int) -> Process:
    """The service, started by the command of the image."""
    copied_to(tmp_path)
    command = json.loads(dict(dockerfile)["CMD"])  # the exec form: no shell keeps the signals
    assert command[0] == "tidings"
    assert command[-2:] == ["--monitor", "0.0.0.0:9464"]
    return start(*command[1:-1], f"127.0.0.1:{port}")


def test_the_command_of_the_image_answers_logs_json_and_ends_at_sigterm(served: Process) -> None:
    served.wait_for("shipping listens")
    with App("client") as client:
        assert client.request_sync("shipping.price", {"kilograms": 2}) == {"cents": 730}
    assert served.stop() == 0
    assert all(json.loads(line)["level"] == "INFO" for line in served.err if line)


# Kubernetes


def test_kubernetes_waits_as_long_as_a_drain_takes(pod: dict[str, Any]) -> None:
    assert pod["terminationGracePeriodSeconds"] == GRACE
    assert "lifecycle" not in pod["containers"][0]  # a preStop hook would take from that time


def test_the_probes_are_those_of_a_service_that_runs(
    container: dict[str, Any], served: Process, port: int
) -> None:
    (own,) = container["ports"]
    assert own["containerPort"] == 9464
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == own["name"]
        paths[probe] = container[probe]["httpGet"]["path"]
    assert paths == {
        "startupProbe": "/startupz",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    served.wait_for("shipping listens")
    for path in paths.values():
        wait_until(lambda: ask(port, path).status == 200)  # noqa: B023 - called at once
    assert "tidings_app_running 1.0" in ask(port, "/metrics").text
    served.stop()


def test_prometheus_finds_the_port_of_the_monitor(
    manifests: dict[str, Any], container: dict[str, Any]
) -> None:
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert int(annotations["prometheus.io/port"]) == container["ports"][0]["containerPort"]


def test_the_pod_may_do_as_little_as_it_needs(
    pod: dict[str, Any], container: dict[str, Any], dockerfile: list[tuple[str, str]]
) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert dict(dockerfile)["USER"] == user
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    writable = {each["name"] for each in pod["volumes"] if "emptyDir" in each}
    paths = {each["mountPath"] for each in container["volumeMounts"] if each["name"] in writable}
    assert paths == {"/tmp"}


def test_the_credentials_are_in_a_mounted_secret(container: dict[str, Any]) -> None:
    environment = {each["name"]: each["value"] for each in container["env"]}
    mounted = [each["mountPath"] for each in container["volumeMounts"] if each.get("readOnly")]
    assert str(Path(environment["NATS_CREDS"]).parent) in mounted
    assert environment["NATS_URL"].startswith("nats://")


def test_selectors_and_labels_agree(manifests: dict[str, Any]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
