"""Candidates for the fields of a JSON schema, each with its location in the text. Pure.

Every rule takes time linear in the length of the text. A slower one would block the whole worker, since matching holds
the GIL.
"""

from __future__ import annotations

import math
import re
import sys
from bisect import bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from accelerator_autopilot.inference.domain.linear_time_patterns import Finder, Span
from accelerator_autopilot.inference.domain.schema_fields import Field

# Possessive (`++`): a number is never backtracked into, so a long one is scanned once.
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:[, ]\d{3}(?!\d)){1,7}|\d++)(?:\.\d++)?(?:[eE][-+]?\d++)?(?!\w*\d)")
MONTHS = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?|"
    "nov(?:ember)?|dec(?:ember)?"
)
FORMATS = {
    "date": re.compile(
        rf"\b(?:\d{{4}}-\d{{2}}-\d{{2}}|\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}}|(?:{MONTHS})\.? \d{{1,2}},? \d{{4}}"
        rf"|\d{{1,2}}\.? (?:{MONTHS})\.? \d{{4}})\b",
        re.IGNORECASE,
    ),
    "date-time": re.compile(r"\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?"),
    # With the lengths of RFC 5321: without them, every letter of a long word is tried as a start.
    "email": re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.[\w-]{0,62}\w\b"),
    "uri": re.compile(r"\bhttps?://[^\s<>\"')]+[^\s<>\"').,;]"),
    "ipv4": re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"),
}
YES = re.compile(r"\b(?:yes|true|positive|present|confirmed)\b", re.IGNORECASE)
NO = re.compile(r"\b(?:no|not|false|negative|absent|denies|without|none)\b", re.IGNORECASE)
LABELLED = re.compile(r"^[ \t]*+(?:[-*] )?([^:\n=]{2,60})[:=][ \t]*+(\S[^\n]*)", re.MULTILINE)
AFTER_LABELLED = " \t.;,\r"
BOUNDARY = re.compile(r"(?<=[.!?])\s|\n")
CONTEXT = 80
# Further candidates are not scored.
MAX_CANDIDATES = 200
# Matches of a submitter's pattern that are not values themselves: each search may scan the whole rest of the text.
MAX_FAILED_MATCHES = 500


@dataclass(frozen=True)
class Candidate:
    """A value, its location, and its context. `labelled` means that the text itself names the field."""

    value: Any
    start: int
    end: int
    context: str
    labelled: bool = False


@dataclass(frozen=True)
class Labelled:
    """A line of the form `label: value`."""

    letters: str
    value: str
    start: int
    line: str


class Document:
    """A text, split into sentences and labelled lines once for all fields."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def sentences(self) -> list[Span]:
        """The start and end of each sentence."""
        return sentences(self.text)

    @cached_property
    def labelled(self) -> list[Labelled]:
        """The labelled lines."""
        found = []
        for match in LABELLED.finditer(self.text):
            value = match[2].rstrip(AFTER_LABELLED)
            if value:
                line = self.text[match.start() : match.start(2) + len(value)].strip()
                found.append(Labelled(_letters(match[1]), value, match.start(2), line))
        return found


def free(field: Field) -> bool:
    """Whether any text could be the field's value, so that only similarity decides."""
    return field.type in {"string", "array"} and not field.options and not field.pattern and field.format not in FORMATS


def candidates(field: Field, document: Document) -> list[Candidate]:
    """Return places in the text that could hold the field's value, at most MAX_CANDIDATES."""
    found = list(_labelled(field, document))
    taken = sorted((c.start, c.end) for c in found)
    text, spans, in_vain = document.text, document.sentences, 0
    for start, end in _places(field, document, taken):
        value = convert(field, text[start:end])
        if value is None:
            in_vain += field.pattern is not None
            if in_vain > MAX_FAILED_MATCHES:
                break
            continue
        first, last = _sentence_around(spans, start, end)
        around = text[max(first, start - CONTEXT) : min(last, end + CONTEXT)]
        found.append(Candidate(value, start, end, " ".join(around.split())))
        insort(taken, (start, end))
        if len(found) >= MAX_CANDIDATES:
            break
    return found[:MAX_CANDIDATES]


def sentences(text: str) -> list[Span]:
    """Return the start and end of each sentence."""
    spans, begin = [], 0
    for boundary in [*(match.span() for match in BOUNDARY.finditer(text)), (len(text), len(text))]:
        piece = text[begin : boundary[0]]
        start = begin + len(piece) - len(piece.lstrip())
        end = begin + len(piece.rstrip())
        if end > start:
            spans.append((start, end))
        begin = boundary[1]
    return spans


def _sentence_around(spans: Sequence[Span], start: int, end: int) -> Span:
    index = bisect_right(spans, (start, sys.maxsize)) - 1
    first, last = spans[index] if index >= 0 else (start, end)
    return min(first, start), max(last, end)


def convert(field: Field, raw: str) -> Any | None:
    """Convert a piece of text to the field's type; None when it does not fit."""
    if field.options:
        return next((o for o in field.options if o.lower() == raw.strip().lower()), None)
    if field.type in {"number", "integer"}:
        return _number(field, raw)
    if field.type == "boolean":
        return False if NO.search(raw) else True if YES.search(raw) else None
    if field.pattern is not None:
        return field.pattern.search(raw)
    if field.format in FORMATS:
        match = FORMATS[field.format or ""].search(raw)
        return match.group() if match else None
    return raw.strip() or None


def _number(field: Field, raw: str) -> float | int | None:
    match = NUMBER.search(raw)
    number = float(re.sub(r"[, ]", "", match.group())) if match else math.inf
    # A number beyond the range of a double cannot be returned.
    if not math.isfinite(number):
        return None
    if field.type == "number":
        return number
    return int(number) if number == int(number) else None


def _labelled(field: Field, document: Document) -> Iterator[Candidate]:
    name, count = _letters(field.name), 0
    for one in document.labelled:
        if name not in one.letters and one.letters not in name:
            continue
        value = convert(field, one.value)
        if value is None:
            continue
        place = max(0, one.value.find(str(value)))
        raw = str(value) if one.value.startswith(str(value), place) else one.value
        yield Candidate(value, one.start + place, one.start + place + len(raw), one.line, labelled=True)
        count += 1
        if count >= MAX_CANDIDATES:
            return


def _places(field: Field, document: Document, taken: list[Span]) -> Iterator[Span]:
    """Yield where the field's rule matches outside of the taken spans; `taken` may grow meanwhile."""
    if field.options:
        finders = [_finder(re.compile(rf"\b{re.escape(o)}\b", re.IGNORECASE), document.text) for o in field.options]
    elif field.type in {"number", "integer"}:
        finders = [_finder(NUMBER, document.text)]
    elif field.pattern is not None:
        finders = [field.pattern.finder(document.text)]
    elif field.format in FORMATS:
        finders = [_finder(FORMATS[field.format or ""], document.text)]
    else:
        yield from (span for span in document.sentences if _taken_until(taken, span[0]) is None)
        return
    for find in finders:
        place = 0
        while place <= len(document.text) and (span := find(place)) is not None:
            covered = _taken_until(taken, span[0])
            if covered is None:
                yield span
            # Skip all adjacent taken spans at once, or each match within a long line would be searched in
            # vain.
            place = max(span[1], span[0] + 1, covered or 0)


def _finder(rule: re.Pattern[str], text: str) -> Finder:
    def find(start: int) -> Span | None:
        match = rule.search(text, start)
        return match.span() if match else None

    return find


def _taken_until(taken: Sequence[Span], place: int) -> int | None:
    """Return the end of the taken span that contains a position; None when the position is free."""
    index = bisect_right(taken, (place, sys.maxsize)) - 1
    return taken[index][1] if index >= 0 and place < taken[index][1] else None


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
