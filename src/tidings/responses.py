"""Responses: makes the result of a request from its answer."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

from tidings import codec
from tidings.message import Message
from tidings.protocol.parser import Frame

_decode_dict = codec.decoder(dict)


def read_dict(frame: Frame) -> Any:
    """The result of a request without a data type: a dict."""
    return _decode_dict(frame[4])


def response_reader(data_type: Any) -> Callable[[Frame], Any]:
    """What makes the result of a request of its answer."""
    if data_type is None:
        return read_dict
    if data_type is Message or typing.get_origin(data_type) is Message:
        inner = typing.get_args(data_type)
        decode = codec.decoder(inner[0] if inner else dict)
        return lambda frame: Message(
            frame[1], decode(frame[4]), frame[4], frame[2], frame[0], frame[3], None
        )
    decode = codec.decoder(data_type)
    return lambda frame: decode(frame[4])
