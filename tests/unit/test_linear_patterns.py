"""Every regular expression that sees a submitter's text takes time linear in it, and their own patterns cannot hang."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.inference.domain import field_extraction, log_lines
from accelerator_autopilot.inference.domain.field_extraction import Document, candidates, sentences
from accelerator_autopilot.inference.domain.linear_time_patterns import UserPattern
from accelerator_autopilot.inference.domain.schema_fields import fields_of
from accelerator_autopilot.inference.kinds import analyze_logs, summarize

MODULES = ("domain.field_extraction", "domain.log_lines", "kinds.summarize", "kinds.analyze_logs")
# Each is repeated; together they hit what the rules begin with, repeat and look ahead for.
PIECES = (
    "a", "1", " ", "\n", "\n ", ".", "a.", "1.", "1,", "111 ", "1 234 ", "a@", "a@b.", "@", "ab: x.", "ab:", "ab: x;",
    ":", "-", "- ", "+1", "1e", "A", "AError", "_", "(", "((", "NVRM: Xid", "NVRM: Xid(", "NET/IB ", "mlx5_", "http://",
    "http://,", "error rate ", "0x", "1:", "```\n", "```", "#\n", "。", "jan. ", "2026-01-01 ", "ü", "\0", "<1>",
    "Aug 1 ",
)  # fmt: skip
TAILS = ("", "x", "!", "a1", "\nx", ",")
SHORT, LONG = 2_000, 16_000
# A quadratic rule takes 64 times as long for 8 times the text: seconds where a linear one takes milliseconds.
MAX_S = 1.0


def rules() -> Iterator[tuple[str, re.Pattern[str]]]:
    for name in MODULES:
        module = import_module(f"accelerator_autopilot.inference.{name}")
        for key, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield f"{name}.{key}", value
    for key, rule in field_extraction.FORMATS.items():
        yield f"format {key}", rule
    for pattern in log_lines.PATTERNS:
        yield f"log {pattern.kind}", pattern.rule
    for mask, name in analyze_logs.MASKS:
        yield f"mask {name}", re.compile(mask)


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize(("name", "rule"), list(rules()), ids=lambda v: v if isinstance(v, str) else "")
def test_every_rule_is_linear_in_hostile_texts(name: str, rule: re.Pattern[str]) -> None:
    for piece in PIECES:
        for tail in TAILS:
            short = seconds(lambda: list(rule.finditer(piece * (SHORT // len(piece)) + tail)))  # noqa: B023  runs at once
            # What is cubic is told before it runs for an hour.
            assert short < MAX_S / 4, f"{name} takes {short:.2f} s for {SHORT} characters of {piece!r}"
        long = seconds(lambda: [list(rule.finditer(piece * (LONG // len(piece)) + tail)) for tail in TAILS])  # noqa: B023
        assert long < MAX_S, f"{name} takes {long:.2f} s for 6 times {LONG} characters of {piece!r}"


@pytest.mark.parametrize("piece", ["a", "a ", "x: 1 ", "1 ", "1 2 3 4\n", "\n", "ab: 1.", "a. "])
@pytest.mark.parametrize("rule", [{"type": "number"}, {"format": "email"}, {}, {"pattern": "1"}, {"enum": ["a", "1"]}])
def test_looking_for_a_field_is_linear(piece: str, rule: dict[str, Any]) -> None:
    (field,) = fields_of({"properties": {"x": rule}})
    assert seconds(lambda: candidates(field, Document(piece * (400_000 // len(piece))))) < 4.0


def test_splitting_and_summarising_a_line_of_letters_takes_no_time() -> None:
    line = "a" * 1_000_000 + "\nnext line"
    assert sentences(line) == [(0, 1_000_000), (1_000_001, 1_000_010)]
    assert seconds(lambda: summarize.split("\n \n" * 100_000)) < 2.0


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(?:a|a)*b", r"(\w+\s?)*:", "(.*)*x", "a(.*b)?"])
def test_a_submitters_pattern_cannot_hang(pattern: str) -> None:
    (field,) = fields_of({"properties": {"x": {"pattern": pattern}}})
    assert seconds(lambda: candidates(field, Document("a" * 100_000 + "!"))) < 4.0


def test_a_submitters_pattern_finds_characters_and_not_bytes() -> None:
    text = "naïve Größe: 12 kg, größe: 7 kg"
    find = UserPattern(r"\d+ kg", "p").finder(text)
    first = find(0)
    assert first is not None
    second = find(first[1])
    assert second is not None
    assert [text[a:b] for a, b in (first, second)] == ["12 kg", "7 kg"]
    assert find(second[1]) is None


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "(", "a{5000}", "x" * 1001, 5, ["a"], "\ud800"])
def test_what_is_not_supported_is_refused_by_its_place(pattern: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        fields_of({"properties": {"x": {"pattern": pattern}}})
    assert refused.value.field == "schema.properties.x.pattern"


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"properties": {"x": {"type": ["number", "string"]}}}, "schema.properties.x.type"),
        ({"properties": {"x": {"type": {"a": 1}}}}, "schema.properties.x.type"),
        ({"properties": {"x": {"items": ["a"]}}}, "schema.properties.x.items"),
        ({"properties": {"x": {"enum": 3}}}, "schema.properties.x.enum"),
        ({"properties": {"x": {"enum": [""]}}}, "schema.properties.x.enum"),
        ({"properties": {"x": {"format": ["date"]}}}, "schema.properties.x.format"),
        ({"properties": {"x": {"$ref": "#/$defs/x"}}}, "schema.properties.x.$ref"),
        ({"properties": {"x": 1}}, "schema.properties.x"),
        ({"properties": {"x": {}}, "required": 1}, "schema.required"),
        ({"properties": {str(i): {} for i in range(201)}}, "schema.properties"),
    ],
)
def test_a_schema_of_another_shape_is_refused_by_its_place(schema: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        fields_of(schema)
    assert refused.value.field == field


def test_a_field_that_may_be_null_is_of_its_other_type() -> None:
    (field,) = fields_of({"properties": {"x": {"type": ["number", "null"]}}})
    assert field.type == "number"


def test_numbers_as_people_write_them_and_none_that_cannot_be_told() -> None:
    (field,) = fields_of({"properties": {"x": {"type": "number"}}})
    found = candidates(
        field, Document("It cost 1,234.50 or 1 000 000 or 7 or 1,2345 or -3e2; not 5a3, not " + "9" * 400)
    )
    assert [c.value for c in found] == [1234.5, 1_000_000.0, 7.0, 1.0, 2345.0, -300.0]


def test_a_pattern_whose_matches_are_all_in_vain_is_not_tried_at_every_place() -> None:
    (field,) = fields_of({"properties": {"x": {"type": "string", "pattern": r"x\B(?:(?s).*z)?"}}})
    document = Document("xy " * 60_000)
    began = time.process_time()
    assert candidates(field, document) == []
    assert time.process_time() - began < 10.0, "it took minutes"
