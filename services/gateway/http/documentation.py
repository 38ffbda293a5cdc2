"""Serve the manual under /docs and the API browser under /api/docs, without a key."""

from __future__ import annotations

from functools import cache

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from accelerator_autopilot.gateway.http import api_reference, html_page
from accelerator_autopilot.gateway.http.manual import HOME, MOVED, PREFIX, Manual, folder

API_PATH = "/api/docs"
_HEADERS = {"Content-Security-Policy": html_page.CSP, "Cache-Control": "max-age=300"}


def install(app: FastAPI, manual: Manual | None = None) -> frozenset[str]:
    """Add the routes; returns the paths that need no key."""
    shown = manual or Manual(folder())

    @app.get(PREFIX, include_in_schema=False)
    def home() -> RedirectResponse:
        return RedirectResponse(f"{PREFIX}/{HOME}", 307)

    @app.get(html_page.CSS_PATH, include_in_schema=False)
    def style() -> Response:
        return Response(html_page.CSS, media_type="text/css", headers=_HEADERS)

    @app.get(PREFIX + "/{name:path}", include_in_schema=False)
    def manual_file(name: str) -> Response:
        if not name:
            return home()
        if name in MOVED:
            return RedirectResponse(f"{PREFIX}/{MOVED[name]}", 308)
        if name not in shown.files:
            raise HTTPException(404, f"the manual has no page {name!r}; start at {PREFIX}")
        return Response(shown.read(name), media_type=shown.media_type(name), headers=_HEADERS)

    @cache
    def reference() -> str:
        return api_reference.reference_page(app.openapi())

    @app.get(API_PATH, include_in_schema=False)
    def api() -> HTMLResponse:
        return HTMLResponse(reference(), headers=_HEADERS)

    below = {f"{PREFIX}/{name}" for name in (*shown.files, *MOVED)}
    return frozenset({PREFIX, f"{PREFIX}/", html_page.CSS_PATH, API_PATH} | below)
