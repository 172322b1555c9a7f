"""Forms: a stream's options in one form for comparisons, and in words for plans."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

# Values that the server leaves out of its answer.
_ABSENT: dict[str, Any] = {
    "description": "",
    "subjects": (),
    "max_age": 0,
    "subject_delete_marker_ttl": 0,
    "sources": (),
    "compression": "none",
}
_DURATIONS = ("max_age", "duplicate_window", "subject_delete_marker_ttl", "inactive_threshold")


def absent(option: str, declared: Any) -> Any:
    """Return what an option is if the server's configuration lacks it."""
    return False if isinstance(declared, bool) else _ABSENT.get(option)


def comparable(option: str, value: Any) -> Any:
    """Return an option's value in a form that is equal for equal meanings."""
    if option == "subjects":
        return sorted(value or ())
    if option == "sources":
        return sorted(msgspec.json.encode(_plain(each), order="sorted") for each in value or ())
    return (_plain(value) or None) if isinstance(value, Mapping) else value


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested value without what is empty, and with times in one form."""
    plain: dict[str, Any] = {}
    for name, each in value.items():
        if isinstance(each, Mapping):
            each = _plain(each)
        elif isinstance(each, list):
            each = [_plain(one) if isinstance(one, Mapping) else one for one in each]
        elif name == "opt_start_time" and isinstance(each, str):
            each = datetime.fromisoformat(each).timestamp()
        if each:
            plain[name] = each
    return plain


def in_words(option: str, value: Any) -> str:
    """Return an option's value as a plan shows it."""
    if option == "description":
        return repr(value)
    if option in _DURATIONS:
        return f"{value / 1e9:g} s" if value else "no limit"
    if option == "sources":
        return ", ".join(map(_source_words, value or ())) or "none"
    if isinstance(value, Mapping):
        return _mapping_words(option, value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "none"
    return "no limit" if value == -1 else str(value)


def _mapping_words(option: str, value: Mapping[str, Any]) -> str:
    if option == "mirror":
        return _source_words(value)
    if "src" in value:
        words = f"{value['src']} to {value.get('dest', '')}"
        return f"{words} without bodies" if value.get("headers_only") else words
    own = ((name, each) for name, each in value.items() if not name.startswith("_nats."))
    return ", ".join(f"{name}={in_words(name, each)}" for name, each in own if each) or "none"


def _source_words(source: Mapping[str, Any]) -> str:
    details = []
    if source.get("filter_subject"):
        details.append(source["filter_subject"])
    details += [in_words("", each) for each in source.get("subject_transforms") or ()]
    for start in ("opt_start_seq", "opt_start_time"):
        if source.get(start):
            details.append(f"from {source[start]}")
    if external := source.get("external"):
        details.append(f"at {external.get('api', '')}")
    return f"{source['name']} ({', '.join(details)})" if details else str(source["name"])
