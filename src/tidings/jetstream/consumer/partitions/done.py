"""Done: the messages that this instance has settled, in case the server did not hear of it."""

from __future__ import annotations

from tidings.jetstream.message import METADATA_TOKENS

# Messages that are remembered.
MOST = 10_000

# The sequence and the time of a message. Both, because a stream that is created again counts from 1
# again.
Place = tuple[str, str]


class Done:
    """The newest messages that were settled for good, by their place in the work queue.

    An acknowledgement can be lost with its connection. The message then comes again, perhaps after
    later ones of its key.
    """

    def __init__(self) -> None:
        self._places: dict[Place, None] = {}

    def add(self, reply: str) -> None:
        """Remember a message, by the reply subject of its delivery."""
        self._places[_place(reply)] = None
        if len(self._places) > MOST:
            del self._places[next(iter(self._places))]

    def __contains__(self, reply: str) -> bool:
        return _place(reply) in self._places


def _place(reply: str) -> Place:
    tokens = reply.split(".")
    begin = 5 if len(tokens) == METADATA_TOKENS else 7
    return tokens[begin], tokens[begin + 2]
