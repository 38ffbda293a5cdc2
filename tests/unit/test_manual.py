"""The manual and the API browser as the gateway serves them."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from accelerator_autopilot.gateway.http.manual import HOME, MOVED, Manual, folder, navigation, slugify
from tests.support.gateway import gateway_app

OTHER_HOST = re.compile(
    r"""(?:href|src|action|srcset)=["']?(?:[a-z]+:)?//|url\(|@import|<script|<iframe""", re.IGNORECASE
)
CSP = "default-src 'none'; style-src 'self'"


@pytest.fixture
def http(tmp_path: Path) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=gateway_app("nats://127.0.0.1:1", tmp_path))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_every_page_is_served_without_a_key_and_refers_to_no_other_host(http: httpx.AsyncClient) -> None:
    pages = [f"/docs/{name}" for name in Manual(folder()).pages]
    assert len(pages) > 20
    for path in [*pages, "/api/docs"]:
        answer = await http.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith(CSP)
        assert OTHER_HOST.search(answer.text) is None, path
    style = await http.get("/docs/manual.css")
    assert style.headers["content-type"].startswith("text/css")
    assert OTHER_HOST.search(style.text) is None


async def test_docs_leads_to_the_home_page_and_old_pages_to_their_new_place(http: httpx.AsyncClient) -> None:
    for path in ("/docs", "/docs/"):
        first = await http.get(path, follow_redirects=True)
        assert (first.status_code, first.url.path) == (200, f"/docs/{HOME}")
    for old in MOVED:
        moved = await http.get(f"/docs/{old}")
        assert moved.status_code == 308
        assert (await http.get(moved.headers["location"])).status_code == 200


async def test_files_beside_pages_are_served_as_text_and_nothing_else_is(http: httpx.AsyncClient) -> None:
    example = await http.get("/docs/examples/python/bare_jobs.py")
    assert example.headers["content-type"].startswith("text/plain")
    assert (await http.get("/docs/reference/openapi.json")).headers["content-type"] == "application/json"
    for path in ("/docs/../README.md", "/docs/%2e%2e/README.md", "/docs//etc/passwd", "/docs/nope.md"):
        assert (await http.get(path)).status_code == 401, path
        assert (await http.get(path, headers={"X-API-Key": "v"})).status_code == 404, path


async def test_the_api_browser_shows_every_operation_and_schema(http: httpx.AsyncClient) -> None:
    page = (await http.get("/api/docs")).text
    document = (await http.get("/openapi.json", headers={"X-API-Key": "v"})).json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert f'id="{operation["operationId"]}"' in page
        assert f"<code>{path}</code>" in page
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets - {"HTTPValidationError", "ValidationError"} <= set(re.findall(r'id="([^"]+)"', page))


def test_every_page_is_in_the_navigation_of_every_page() -> None:
    manual = Manual(folder())
    linked = [target for _, group in navigation(manual.files[HOME].read_text()) for _, target in group]
    assert sorted([HOME, *linked]) == sorted(manual.pages)
    page = manual.read("reference/alerts.md").decode()
    assert '<a href="../reference/alerts.md" aria-current="page">Alerts</a>' in page
    assert '<h3 id="worker_stuck">' in page


def test_markup_in_pages_is_shown_and_not_run(tmp_path: Path) -> None:
    (tmp_path / HOME).write_text("# Home <b>\n\n<script>alert(1)</script> <!-- a note -->\n\n# Home <b>\n")
    page = Manual(tmp_path).read(HOME).decode()
    assert "<script" not in page
    assert "a note" not in page
    assert 'id="home-b"' in page
    assert 'id="home-b_1"' in page


def test_a_gateway_without_a_manual_still_starts(tmp_path: Path) -> None:
    assert Manual(tmp_path / "none").files == {}


@pytest.mark.parametrize(
    ("heading", "identity"),
    [
        ("A full disk", "a-full-disk"),
        ("worker_stuck", "worker_stuck"),
        ("Kubernetes, KEDA or Docker", "kubernetes-keda-or-docker"),
    ],
)
def test_ids_of_headings_are_those_of_mkdocs(heading: str, identity: str) -> None:
    assert slugify(heading) == identity
