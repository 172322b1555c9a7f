"""Asks the monitor of a service about its health."""

from __future__ import annotations

import http.client

import msgspec

from tidings.addresses import ListenAddress

from .health import PROBES, Health, Probe

# Where to ask a service that listens on all interfaces.
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not listened on


def ask(address: ListenAddress, probe: Probe, timeout: float) -> Health:
    """Ask, and return the answer. No answer, or another one, is a failed condition of its own.

    Args:
        address: where the monitor listens.
        probe: the question.
        timeout: seconds to wait for the answer.
    """
    path = next(path for path, asked in PROBES.items() if asked is probe)
    connection = http.client.HTTPConnection(
        ANY.get(address.host, address.host), address.port, timeout=timeout
    )
    try:
        connection.request("GET", path)
        return msgspec.json.decode(connection.getresponse().read(65_536), type=Health)
    except (OSError, http.client.HTTPException) as error:
        return Health.of({"monitor": f"no answer from {address}: {error or type(error).__name__}"})
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return Health.of({"monitor": f"{address} is no monitor of tidings"})
    finally:
        connection.close()
