"""Services of the `micro` protocol, asked by hand, and checked by its rules."""

import json
import re
from typing import Any

import jsonschema
import nats
import nats.aio.client

# The rules of NATS ADR-32 for the three answers, in our own words.
NAME = {"type": "string", "pattern": "^[a-zA-Z0-9_-]+$"}
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
METADATA = {"type": ["object", "null"], "additionalProperties": {"type": "string"}}
SEMANTIC_VERSION = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII
)
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")

_ENDPOINT = {"name": NAME, "subject": TEXT, "queue_group": {"type": "string"}}
_COUNTS = ("num_requests", "num_errors", "processing_time", "average_processing_time")


def _shape(verb: str, required: dict[str, Any]) -> dict[str, Any]:
    kind = {"const": f"io.nats.micro.v1.{verb.lower()}_response"}
    properties = {"type": kind, "name": NAME, "id": TEXT, "version": TEXT, **required}
    return {
        "type": "object",
        "required": list(properties),
        "properties": {**properties, "metadata": METADATA},
    }


def _endpoints(more: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    endpoint = {
        "type": "object",
        "required": ["name", "subject", *required],
        "properties": {**_ENDPOINT, **more},
    }
    return {"type": "array", "items": endpoint}


SHAPES = {
    "PING": _shape("PING", {}),
    "INFO": _shape(
        "INFO",
        {"description": {"type": "string"}, "endpoints": _endpoints({"metadata": METADATA})},
    ),
    "STATS": _shape(
        "STATS",
        {
            "started": TEXT,
            "endpoints": _endpoints(
                {**dict.fromkeys(_COUNTS, COUNT), "last_error": {"type": "string"}},
                (*_COUNTS, "last_error"),
            ),
        },
    ),
}


def check_answer(verb: str, answer: dict[str, Any]) -> None:
    """Fail if an answer breaks a rule of the protocol."""
    jsonschema.validate(answer, SHAPES[verb])
    assert SEMANTIC_VERSION.fullmatch(answer["version"])
    if verb == "STATS":
        assert RFC_3339.fullmatch(answer["started"])


class Asker:
    """A client that asks services as any tool does.

    Args:
        client: a connected client of nats-py.
    """

    def __init__(self, client: nats.aio.client.Client) -> None:
        self.client = client

    async def settle(self) -> None:
        """Wait until the server has all subscriptions of the client. The PING of nats-py can
        overtake a subscription; that of the second call cannot."""
        await self.client.flush()
        await self.client.flush()

    async def ask(self, subject: str, timeout: float = 5.0) -> dict[str, Any]:
        """Return the first answer on a subject of `$SRV`, after a check by the rules."""
        message = await self.client.request(subject, b"", timeout=timeout)
        answer: dict[str, Any] = json.loads(message.data)
        check_answer(subject.split(".")[1], answer)
        return answer

    async def endpoint(self, subject: str, name: str) -> dict[str, Any]:
        """Return one endpoint in the first answer."""
        found = {each["name"]: each for each in (await self.ask(subject))["endpoints"]}
        return dict(found[name])
