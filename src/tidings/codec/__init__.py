"""Bodies: values to bytes and back, checked against types."""

from tidings.codec.json import NAMED, decoder, encode, fault_text, resolve

__all__ = ["NAMED", "decoder", "encode", "fault_text", "resolve"]
