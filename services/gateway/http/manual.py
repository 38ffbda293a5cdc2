"""The manual under /docs: the Markdown pages of docs/, rendered without external resources.

Pages keep the names of their files, so that links between them and the `runbook` of an alert work unchanged.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path, PurePosixPath

from markdown_it import MarkdownIt
from markdown_it.token import Token

from accelerator_autopilot.gateway.http import html_page

PREFIX = "/docs"
HOME = "index.md"
MEDIA_TYPES = {".md": "text/html", ".json": "application/json", ".svg": "image/svg+xml"}
# Paths of pages before the manual had its four groups. Stored alerts still refer to them.
MOVED = {
    "alerts.md": "reference/alerts.md",
    "gpu-check.md": "how-to/check-a-gpu-machine.md",
    "jobs.md": "explanation/jobs.md",
    "metrics.md": "reference/metrics.md",
    "openapi.json": "reference/openapi.json",
    "reliability.md": "explanation/reliability.md",
    "scheduling.md": "explanation/scheduling.md",
    "settings.md": "reference/settings.md",
    "telemetry.md": "explanation/telemetry.md",
}
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def folder() -> Path:
    """Return where the pages are: beside this package in a wheel, in docs/ of a checkout."""
    packaged = Path(__file__).parents[1] / "manual"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "docs"


class Manual:
    """The files of the manual by their path below /docs. Empty where none are packaged."""

    def __init__(self, root: Path) -> None:
        self._root = root
        home = root / HOME
        found = sorted(root.rglob("*")) if home.is_file() else []
        self.files = {f.relative_to(root).as_posix(): f for f in found if f.is_file() and not _hidden(f, root)}
        self._page = cache(self._render)

    @property
    def pages(self) -> list[str]:
        """The paths of the Markdown pages."""
        return [name for name in self.files if name.endswith(".md")]

    def media_type(self, name: str) -> str:
        """Return the media type of a file. Raises KeyError."""
        return MEDIA_TYPES.get(self.files[name].suffix, "text/plain")

    def read(self, name: str) -> bytes:
        """Return a file's content, pages as HTML. Raises KeyError."""
        return self._page(name).encode() if name.endswith(".md") else self.files[name].read_bytes()

    def _render(self, name: str) -> str:
        tokens = parse(self.files[name].read_text(encoding="utf-8"))
        title = next((t.content for t, before in _following(tokens) if before.type == "heading_open"), name)
        return html_page.page(title, _html(tokens), side=self._navigation(name))

    def _navigation(self, current: str) -> str:
        """Return the pages in the order and groups of the home page, with links relative to the current page."""
        parts = [f'<a href="{_relative(HOME, current)}">Home</a>']
        for title, links in navigation(self.files[HOME].read_text(encoding="utf-8")):
            parts.append(f"<h2>{escape(title)}</h2>")
            parts += [_link(text, target, current) for text, target in links]
        parts.append('<h2>API</h2><a href="/api/docs">API browser</a>')
        return "".join(parts)


def parse(text: str) -> list[Token]:
    """Parse the Markdown of a page, giving each heading the id that mkdocs gives it."""
    tokens = _parser().parse(_COMMENT.sub("", text))
    taken: Counter[str] = Counter()
    for inline, opening in _following(tokens):
        if opening.type == "heading_open":
            slug = slugify("".join(child.content for child in inline.children or ()))
            opening.attrSet("id", f"{slug}_{taken[slug]}" if taken[slug] else slug)
            taken[slug] += 1
    return tokens


def navigation(home: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the groups of the home page: title, then text and target of each link."""
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for token, before in _following(parse(home)):
        if before.type == "heading_open" and before.tag == "h2":
            groups.append((token.content, []))
        elif groups:
            groups[-1][1].extend(links(token.children or ()))
    return groups


def links(tokens: Iterable[Token]) -> list[tuple[str, str]]:
    """Yield text and target of each link among inline tokens."""
    found: list[tuple[str, str]] = []
    for token in tokens:
        if token.type == "link_open":
            found.append(("", str(token.attrGet("href"))))
        elif token.type in {"text", "code_inline"} and found and not found[-1][0]:
            found[-1] = (token.content, found[-1][1])
    return found


def slugify(text: str) -> str:
    """Return the id of a heading."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_text).strip().lower())


def _following(tokens: list[Token]) -> Iterable[tuple[Token, Token]]:
    """Yield each inline token with the one that opened its block."""
    return ((token, before) for before, token in pairwise(tokens) if token.type == "inline")


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _html(tokens: list[Token]) -> str:
    parser = _parser()
    return str(parser.renderer.render(tokens, parser.options, {}))


def _link(text: str, target: str, current: str) -> str:
    here = ' aria-current="page"' if target == current else ""
    return f'<a href="{_relative(target, current)}"{here}>{escape(text)}</a>'


def _relative(target: str, current: str) -> str:
    return "../" * (len(PurePosixPath(current).parts) - 1) + escape(target)


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith((".", "__")) for part in file.relative_to(root).parts)
