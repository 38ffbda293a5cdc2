"""The page at /docs: every route in plain HTML, without a script or anything of another host."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from fastapi import APIRouter
from fastapi.routing import APIRoute

CSP = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_STYLE = "body{font:15px sans-serif;max-width:60em;margin:2em auto}td{padding:.2em .8em .2em 0;vertical-align:top}"


def reference_page(title: str, version: str, routers: Iterable[APIRouter]) -> str:
    """The page."""
    rows = "".join(_row(route) for router in routers for route in router.routes if isinstance(route, APIRoute))
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)} {escape(version)}</h1>"
        "<p>Send your key in the header X-API-Key or as a bearer token. /openapi.json, with a key, has every field.</p>"
        f"<table>{rows}</table></body></html>"
    )


def _row(route: APIRoute) -> str:
    methods = " ".join(sorted(route.methods or ()))
    told = escape(route.description.splitlines()[0] if route.description else "")
    return f"<tr><td><code>{methods}</code></td><td><code>{escape(route.path)}</code></td><td>{told}</td></tr>"
