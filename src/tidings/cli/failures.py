"""How a command ends that failed: the text on standard error and the exit code."""

from __future__ import annotations

import sys
from typing import NoReturn

from tidings.errors import ConfigError, HeaderError, SubjectError, TidingsError
from tidings.text import printable

from . import logs

# Errors that the caller can fix by typing something else. They end with exit code 2, as a wrong
# option does.
USAGE = (ConfigError, SubjectError, HeaderError)


def fail(error: TidingsError) -> NoReturn:
    """Report an error and end with its exit code.

    The report is a plain line. If the log has another form than text, it is a line of the log.

    Raises:
        SystemExit: always, with 2 for wrong usage and with 1 for everything else.
    """
    notes = getattr(error, "__notes__", [])  # only an error raised in the user's code has a note
    text = "\n".join([str(error), *notes])
    if not logs.report(text):
        print("tidings:", printable(text, keep="\n"), file=sys.stderr)
    sys.exit(2 if isinstance(error, USAGE) and not notes else 1)
