"""Endpoints: the listeners of an app as discovery shows them, with names and JSON Schemas."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import msgspec

from tidings.codec.schema import Mode, json_schema
from tidings.handlers.annotations import returned
from tidings.handlers.listener_spec import ListenerSpec
from tidings.services.protocol import protocol_name

REQUEST, RESPONSE = "io.nats.schema.request", "io.nats.schema.response"
# Of each item, where requests or replies are streams of items.
REQUEST_ITEM, RESPONSE_ITEM = "tidings.schema.request_item", "tidings.schema.response_item"
DIGEST = ".digest"  # the end of the key of a schema's digest


class Endpoint(msgspec.Struct, frozen=True):
    """A subject of a listener that can answer.

    Attributes:
        name: a name that no other endpoint of the app has.
        subject: the subject.
        queue_group: the queue group; "" for none.
        spec: the listener.
    """

    name: str
    subject: str
    queue_group: str
    spec: ListenerSpec


def endpoints_of(specs: Sequence[ListenerSpec], queue_groups: Sequence[str]) -> list[Endpoint]:
    """Return the endpoints of an app: one for each subject of each listener that can answer.

    The name of an endpoint is that of its handler, or the option `name=`. If several endpoints
    would have the same name, each gets its subject as an addition, so that their names do not
    depend on the order of the declarations.

    Args:
        specs: the listeners.
        queue_groups: the queue group of each listener.
    """
    places = [
        (spec, subject, group)
        for spec, group in zip(specs, queue_groups, strict=True)
        if not spec.no_reply
        for subject in dict.fromkeys(spec.subjects)
    ]
    names = _names([(spec, subject) for spec, subject, _ in places])
    return [
        Endpoint(name, subject, group, spec)
        for name, (spec, subject, group) in zip(names, places, strict=True)
    ]


def _names(places: Sequence[tuple[ListenerSpec, str]]) -> Iterator[str]:
    wanted = Counter(_base(spec) for spec, _ in places)
    chosen = Counter(spec.endpoint for spec, _ in places if spec.endpoint is not None)
    taken = set(wanted)
    for spec, subject in places:
        name = _base(spec)
        if wanted[name] > 1 and not (spec.endpoint is not None and chosen[name] == 1):
            name = next(each for each in _longer(name, subject) if each not in taken)
            taken.add(name)
        yield name


def _base(spec: ListenerSpec) -> str:
    return spec.endpoint or protocol_name(spec.name)


def _longer(name: str, subject: str) -> Iterator[str]:
    name = f"{name}-{protocol_name(subject.replace('*', '_').replace('>', '__'))}"
    yield name
    for number in count(2):
        yield f"{name}-{number}"


# What an endpoint takes and returns.


def schemas_of(spec: ListenerSpec) -> dict[str, str]:
    """Return the JSON Schemas of a listener's requests and responses, and of the items that it
    takes or streams, with a digest of each, as metadata of its endpoints. A type that is not
    annotated has none."""
    shape = spec.shape
    found = _described(REQUEST, spec.parameters.wanted_type, "validation")
    if shape.takes_items:
        found |= _described(REQUEST_ITEM, shape.request_item_type, "validation")
    if shape.streams:
        return found | _described(RESPONSE_ITEM, shape.response_item_type, "serialization")
    return found | _described(RESPONSE, returned(spec.handler), "serialization")


def digests_only(metadata: dict[str, str]) -> dict[str, str]:
    """Return the metadata without the schemas, but with their digests."""
    return {key: value for key, value in metadata.items() if key.endswith(DIGEST)}


def _described(key: str, data_type: Any, mode: Mode) -> dict[str, str]:
    schema = json_schema(data_type, mode)
    if schema is None:
        return {}
    text = msgspec.json.encode(schema, order="sorted")
    digest = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).decode()
    return {key: text.decode(), f"{key}{DIGEST}": f"SHA-256={digest}"}
