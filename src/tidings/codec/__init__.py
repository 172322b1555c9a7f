"""The codec: encodes values as bodies and decodes bodies, checked against types."""

from tidings.codec.json import NAMED, decoder, encode, fault_text, resolve

__all__ = ["NAMED", "decoder", "encode", "fault_text", "resolve"]
