"""The API browser under /api/docs: every operation and schema of the OpenAPI document as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from accelerator_autopilot.gateway.http import html_page

_REF = "#/components/schemas/"
_INTRODUCTION = (
    "<p>Send your key in the header <code>X-API-Key</code> or as a bearer token. The OpenAPI document is at "
    "<code>/openapi.json</code>, with a key. Errors are problem details. "
    '<a href="/docs/reference/http-api.md">Limits and status codes</a></p>'
)
_HIDDEN_SCHEMAS = frozenset({"HTTPValidationError", "ValidationError"})


def reference_page(document: Mapping[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    info, schemas = document["info"], document.get("components", {}).get("schemas", {})
    groups: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups.setdefault((operation.get("tags") or ["other"])[0], []).append((method.upper(), path, operation))
    shown = {name: schema for name, schema in sorted(schemas.items()) if name not in _HIDDEN_SCHEMAS}
    heading = f"{escape(info['title'])} API {escape(info['version'])}"
    content = [f"<h1>{heading}</h1><p>{escape(info.get('description', ''))}</p>", _INTRODUCTION]
    for tag, listed in groups.items():
        content.append(f'<h2 id="{escape(tag)}">{escape(tag.capitalize())}</h2>')
        content += [_operation(method, path, operation) for method, path, operation in listed]
    content.append('<h2 id="schemas">Schemas</h2>')
    content += [_schema(name, schema) for name, schema in shown.items()]
    side = "".join(f'<a href="#{escape(tag)}">{escape(tag.capitalize())}</a>' for tag in [*groups, "schemas"])
    return html_page.page("API", "".join(content), side=f'<a href="/docs">Manual</a><h2>API</h2>{side}')


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    first, _, more = (operation.get("description") or operation.get("summary", "")).partition("\n")
    called = f'<span class="method">{method}</span> <code>{escape(path)}</code>'
    parts = [f"<summary>{called} {escape(first)}</summary>"]
    if more.strip():
        parts.append(f"<p>{escape(more.strip())}</p>")
    parameters = [
        (p["name"], f"{_type(p.get('schema', {}))}, in {escape(p['in'])}", p.get("required", False), _about(p))
        for p in operation.get("parameters", ())
    ]
    if parameters:
        parts.append(f"<h3>Parameters</h3>{_table(parameters)}")
    body = operation.get("requestBody")
    if body:
        kinds = (f"{escape(media)}: {_type(given.get('schema', {}))}" for media, given in body["content"].items())
        parts.append(f"<h3>Body</h3><p>{', '.join(kinds)}</p>")
    parts.append(f"<h3>Responses</h3><ul>{''.join(_response(*item) for item in operation['responses'].items())}</ul>")
    parts.append(f"<pre><code>{escape(_example(method, path, body))}</code></pre>")
    return f'<details id="{escape(operation["operationId"])}">{"".join(parts)}</details>'


def _response(status: str, response: Mapping[str, Any]) -> str:
    content = response.get("content", {})
    shown = [_type(given.get("schema", {})) for given in content.values() if given.get("schema")]
    described = escape(response.get("description", ""))
    if status == "422":
        described, shown = "The request is not valid: problem details.", []
    return f"<li><code>{escape(status)}</code> {described} {', '.join(shown)}</li>"


def _example(method: str, path: str, body: Mapping[str, Any] | None) -> str:
    lines = [f'curl -X {method} "$GATEWAY{path}"', '-H "X-API-Key: $KEY"']
    if body and "application/json" in body["content"]:
        lines += ["-H 'Content-Type: application/json'", "-d @body.json"]
    return " \\\n  ".join(lines)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = [(key, _type(given), key in required, _about(given)) for key, given in schema.get("properties", {}).items()]
    about = f"<p>{escape(schema['description'])}</p>" if schema.get("description") else ""
    fields = _table(rows) if rows else f"<p>{_type(schema)}</p>"
    return f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{about}{fields}</details>'


def _table(rows: Iterable[tuple[str, str, bool, str]]) -> str:
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td>"
        f"<td>{'yes' if required else 'no'}</td><td>{about}</td></tr>"
        for name, kind, required, about in rows
    )
    return f"<table><tr><th>name</th><th>type</th><th>required</th><th>description</th></tr>{cells}</table>"


def _about(given: Mapping[str, Any]) -> str:
    """Return description, default and limits of a field or parameter."""
    schema = given.get("schema", given)
    parts = [escape(given["description"])] if given.get("description") else []
    if schema.get("default") is not None:
        parts.append(f"Default <code>{escape(json.dumps(schema['default']))}</code>.")
    limits = {"minimum": "at least", "maximum": "at most", "maxLength": "at most characters:"}
    parts += [f"{word} {schema[key]:g}" for key, word in limits.items() if isinstance(schema.get(key), int | float)]
    return " ".join(parts)


def _type(schema: Mapping[str, Any]) -> str:
    """Return a short HTML description of a schema's type."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(_REF))
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(inner) for inner in schema[key])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    named = schema.get("format") or schema.get("type", "any")
    return escape(named if isinstance(named, str) else " or ".join(named))
