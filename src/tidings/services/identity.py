"""Identity: what an instance of a service says of itself in each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidings.services.protocol import Verb, protocol_name
from tidings.version import __version__

CONSUMERS = "tidings.consumers"  # the key of the service's consumers in its metadata


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance of a service says of itself.

    Attributes:
        name: the name of the service, as the protocol allows it.
        id: the ID of the instance.
        version: the version of the service.
        description: what the service does.
        metadata: what the user says of the service, the version of tidings, and the consumers.
    """

    name: str
    id: str
    version: str
    description: str
    metadata: dict[str, str]

    @classmethod
    def of(
        cls,
        service_name: str,
        *,
        instance_id: str,
        version: str,
        description: str,
        metadata: Mapping[str, str],
        consumers: Sequence[str] = (),
    ) -> Identity:
        """Return the identity of an app.

        If the protocol does not allow the name, the metadata contains the original one. The
        metadata also contains the consumers of the app, each as `stream.consumer`.
        """
        name = protocol_name(service_name)
        own = {"tidings.version": __version__}
        if name != service_name:
            own["tidings.service"] = service_name
        if consumers:
            own[CONSUMERS] = ",".join(consumers)
        return cls(
            name=name,
            id=instance_id,
            version=version,
            description=description,
            metadata={**own, **metadata},
        )

    def answer(self, verb: Verb, **more: Any) -> bytes:
        """Return the answer to a question, with more fields."""
        return msgspec.json.encode(
            {
                "type": verb.response_type,
                "name": self.name,
                "id": self.id,
                "version": self.version,
                "metadata": self.metadata,
                **more,
            }
        )
