"""Regular expressions written by submitters, matched in linear time. Pure.

RE2 supports neither lookaround nor backreferences, so no pattern can take exponential time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import re2

from accelerator_autopilot.contracts.errors import InvalidInputError

MAX_CHARACTERS = 1000
MAX_MEMORY_BYTES = 8 * 2**20

Span = tuple[int, int]
Finder = Callable[[int], Span | None]


class UserPattern:
    """One compiled pattern."""

    def __init__(self, source: object, field: str) -> None:
        """Compile a pattern. Raises InvalidInputError, naming `field`, for one that is invalid or too large for RE2."""
        if not isinstance(source, str):
            raise InvalidInputError(field, type(source).__name__, "must be a string with a regular expression")
        if len(source) > MAX_CHARACTERS:
            raise InvalidInputError(field, f"{len(source)} characters", f"may have at most {MAX_CHARACTERS} characters")
        options = re2.Options()
        options.log_errors = False
        options.max_mem = MAX_MEMORY_BYTES
        try:
            self._rule: Any = re2.compile(source, options)
        except re2.error as error:
            raise InvalidInputError(field, source, f"is not a valid RE2 pattern: {_reason(error)}") from None
        except UnicodeEncodeError:
            raise InvalidInputError(field, "text", "contains half of a surrogate pair") from None

    def search(self, text: str) -> str | None:
        """Return the first match in a text."""
        match = self._rule.search(text)
        found: str | None = match.group() if match else None
        return found

    def finder(self, text: str) -> Finder:
        """Return a function that finds the next match in `text`; positions must not decrease between calls."""
        data = text.encode()
        at_char = at_byte = 0

        def find(start: int) -> Span | None:
            nonlocal at_char, at_byte
            # RE2 counts bytes: only the text between two calls is counted again.
            at_byte += len(text[at_char:start].encode())
            at_char = start
            match = self._rule.search(data, at_byte)
            if match is None:
                return None
            first, last = match.span()
            begins = at_char + len(data[at_byte:first].decode())
            return begins, begins + len(data[first:last].decode())

        return find


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    return f"{text[:200]} (lookaround and references to groups are not supported)"
