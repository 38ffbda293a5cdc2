"""Candidates for the fields of a JSON schema, each with the place in the text that it came from. Pure."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import InvalidInputError

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:[, ]\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w]*\d)")
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
    "email": re.compile(r"\b[\w.+-]+@[\w-]+\.[\w.-]+\w\b"),
    "uri": re.compile(r"\bhttps?://[^\s<>\"')]+[^\s<>\"').,;]"),
    "ipv4": re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"),
}
YES = re.compile(r"\b(?:yes|true|positive|present|confirmed)\b", re.IGNORECASE)
NO = re.compile(r"\b(?:no|not|false|negative|absent|denies|without|none)\b", re.IGNORECASE)
LABELLED = re.compile(r"^[ \t]*(?:[-*] )?([^:\n=]{2,60})[:=][ \t]*(\S[^\n]*?)[ \t.;,]*$", re.MULTILINE)
SENTENCE = re.compile(r"[^.!?\n]*\S[^.!?\n]*(?:[.!?](?=\s|$)|(?:[.!?](?!\s|$)[^.!?\n]*)+[.!?]?|$)")
CONTEXT = 80
TYPES = {"string", "number", "integer", "boolean", "array"}


@dataclass(frozen=True)
class Field:
    """One property of the schema."""

    name: str
    type: str
    description: str
    format: str | None
    options: tuple[str, ...]
    pattern: re.Pattern[str] | None
    required: bool

    @property
    def wanted(self) -> str:
        """What to look for, in words."""
        return f"{self.name.replace('_', ' ').replace('-', ' ')}: {self.description}".rstrip(": ")

    @property
    def free(self) -> bool:
        """Whether any text could be its value, so that only likeness decides."""
        return self.type in {"string", "array"} and not self.options and not self.pattern and self.format not in FORMATS


@dataclass(frozen=True)
class Candidate:
    """A value, where it stands, and what stands around it. `labelled` says that the text itself names the field."""

    value: Any
    start: int
    end: int
    context: str
    labelled: bool = False


def fields_of(schema: dict[str, Any]) -> list[Field]:
    """The fields that a JSON schema asks for. Raises InvalidInputError for one that asks for what is not supported."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        raise InvalidInputError("schema.properties", type(properties).__name__, "must name at least one field")
    required = schema.get("required") or []
    found = []
    for name, rule in properties.items():
        if not isinstance(rule, dict) or rule.get("type", "string") not in TYPES:
            raise InvalidInputError(
                f"schema.properties.{name}.type", str(rule)[:100], f"must be one of {sorted(TYPES)}"
            )
        try:
            pattern = re.compile(rule["pattern"]) if "pattern" in rule else None
        except (re.error, TypeError):
            raise InvalidInputError(f"schema.properties.{name}.pattern", rule["pattern"], "is no pattern") from None
        items = rule.get("items") or {}
        kind = rule.get("type", "string")
        found.append(
            Field(
                name=str(name),
                type=kind,
                description=str(rule.get("description", "")),
                format=rule.get("format") or items.get("format"),
                options=tuple(str(o) for o in rule.get("enum") or items.get("enum") or ()),
                pattern=pattern,
                required=name in required,
            )
        )
    return found


def candidates(field: Field, text: str) -> list[Candidate]:
    """Every place in the text that could be the field's value."""
    found = list(_labelled(field, text))
    spans = sentences(text)
    for value, start, end in _by_type(field, text):
        if not any(c.start <= start < c.end for c in found):
            first, last = _sentence_around(spans, start, end)
            around = text[max(first, start - CONTEXT) : min(last, end + CONTEXT)]
            found.append(Candidate(value, start, end, " ".join(around.split())))
    return found


def sentences(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends."""
    spans = []
    for match in SENTENCE.finditer(text):
        piece = match.group()
        start = match.start() + len(piece) - len(piece.lstrip())
        end = match.end() - (len(piece) - len(piece.rstrip()))
        if end > start:
            spans.append((start, end))
    return spans


def _sentence_around(spans: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    index = bisect_right(spans, (start, sys.maxsize)) - 1
    first, last = spans[index] if index >= 0 else (start, end)
    return min(first, start), max(last, end)


def convert(field: Field, raw: str) -> Any | None:
    """A piece of text as the field's type; None when it is none."""
    if field.options:
        return next((o for o in field.options if o.lower() == raw.strip().lower()), None)
    if field.type in {"number", "integer"}:
        match = NUMBER.search(raw)
        number = float(re.sub(r"[, ]", "", match.group())) if match else None
        if number is None or field.type == "number":
            return number
        return int(number) if number == int(number) else None
    if field.type == "boolean":
        return False if NO.search(raw) else True if YES.search(raw) else None
    if field.pattern is not None or field.format in FORMATS:
        rule = field.pattern or FORMATS[field.format or ""]
        match = rule.search(raw)
        return match.group() if match else None
    return raw.strip() or None


def _labelled(field: Field, text: str) -> Iterator[Candidate]:
    name = _letters(field.name)
    for match in LABELLED.finditer(text):
        label = _letters(match[1])
        if name not in label and label not in name:
            continue
        value = convert(field, match[2])
        if value is not None:
            raw = str(value) if str(value) in match[2] else match[2]
            start = match.start(2) + match[2].find(raw)
            yield Candidate(value, start, start + len(raw), match.group().strip(), labelled=True)


def _by_type(field: Field, text: str) -> Iterator[tuple[Any, int, int]]:
    for start, end in _places(field, text):
        value = convert(field, text[start:end])
        if value is not None:
            yield value, start, end


def _places(field: Field, text: str) -> Iterator[tuple[int, int]]:
    if field.options:
        rules = [re.compile(rf"\b{re.escape(option)}\b", re.IGNORECASE) for option in field.options]
    elif field.type in {"number", "integer"}:
        rules = [NUMBER]
    elif field.pattern is not None or field.format in FORMATS:
        rules = [field.pattern or FORMATS[field.format or ""]]
    else:
        yield from sentences(text)
        return
    for rule in rules:
        yield from (match.span() for match in rule.finditer(text))


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
