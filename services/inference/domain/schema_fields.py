"""The fields that a JSON schema asks for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.inference.domain.linear_time_patterns import UserPattern

TYPES = {"string", "number", "integer", "boolean", "array"}
MAX_FIELDS = 200
MAX_OPTIONS = 200
OPTION_CHARACTERS = 500


@dataclass(frozen=True)
class Field:
    """One property of the schema."""

    name: str
    type: str
    description: str
    format: str | None
    options: tuple[str, ...]
    pattern: UserPattern | None
    required: bool

    @property
    def wanted(self) -> str:
        """The words to search for."""
        return f"{self.name.replace('_', ' ').replace('-', ' ')}: {self.description}".rstrip(": ")


def fields_of(schema: dict[str, Any]) -> list[Field]:
    """Return the fields that a JSON schema asks for. Raises InvalidInputError for unsupported schemas."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        raise InvalidInputError("schema.properties", type(properties).__name__, "must name at least one field")
    if len(properties) > MAX_FIELDS:
        raise InvalidInputError("schema.properties", len(properties), f"may have at most {MAX_FIELDS} fields")
    required = schema.get("required") or []
    if not isinstance(required, list):
        raise InvalidInputError("schema.required", type(required).__name__, "must be a list of names")
    return [_field(str(name), rule, required) for name, rule in properties.items()]


def _field(name: str, rule: Any, required: list[Any]) -> Field:
    place = f"schema.properties.{name[:100]}"
    if not isinstance(rule, dict):
        raise InvalidInputError(place, type(rule).__name__, "must be an object")
    items = rule.get("items") or {}
    if not isinstance(items, dict):
        raise InvalidInputError(f"{place}.items", type(items).__name__, "must be a single object")
    for key in ("$ref", "anyOf", "oneOf", "allOf"):
        if key in rule:
            raise InvalidInputError(f"{place}.{key}", key, "is not supported: give the field's type directly")
    chosen = rule.get("format") or items.get("format")
    if chosen is not None and not isinstance(chosen, str):
        raise InvalidInputError(f"{place}.format", type(chosen).__name__, "must be a string")
    return Field(
        name=name,
        type=_type(rule.get("type", "string"), f"{place}.type"),
        description=str(rule.get("description", ""))[:1000],
        format=chosen,
        options=_options(rule.get("enum") or items.get("enum") or [], f"{place}.enum"),
        pattern=UserPattern(rule["pattern"], f"{place}.pattern") if "pattern" in rule else None,
        required=name in required,
    )


def _type(declared: Any, place: str) -> str:
    # An optional field is written as ["number", "null"]; every field here may be missing.
    named = [one for one in declared if one != "null"] if isinstance(declared, list) else [declared]
    if len(named) != 1 or not isinstance(named[0], str) or named[0] not in TYPES:
        raise InvalidInputError(
            place, str(declared)[:100], f"must be one of {sorted(TYPES)}, or a list of one and null"
        )
    return named[0]


def _options(declared: Any, place: str) -> tuple[str, ...]:
    if not isinstance(declared, list):
        raise InvalidInputError(place, type(declared).__name__, "must be a list")
    options = tuple(str(one) for one in declared if one is not None)
    if len(options) > MAX_OPTIONS or any(not 0 < len(one) <= OPTION_CHARACTERS for one in options):
        rule = f"may have {MAX_OPTIONS} values of 1 to {OPTION_CHARACTERS} characters"
        raise InvalidInputError(place, len(options), rule)
    return options
