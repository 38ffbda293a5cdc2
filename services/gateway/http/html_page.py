"""The frame of every HTML page that the gateway serves, and its style sheet: no scripts, no external resources."""

from __future__ import annotations

from html import escape

CSS_PATH = "/docs/manual.css"
CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
CSS = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0; display: flex; min-height: 100vh; }
nav { flex: 0 0 15rem; padding: 1.2rem; border-right: 1px solid var(--line); font-size: .9rem; }
nav h2 { font-size: .8rem; text-transform: uppercase; margin: 1.2rem 0 .3rem; opacity: .7; }
nav a { display: block; padding: .12rem 0; text-decoration: none; }
nav a[aria-current] { font-weight: bold; }
main { flex: 1; min-width: 0; max-width: 62rem; padding: 1rem 2rem 4rem; }
pre { overflow-x: auto; padding: .8rem 1rem; background: var(--soft); border-radius: .3rem; line-height: 1.4; }
code { font-family: ui-monospace, monospace; font-size: .88em; background: var(--soft); padding: .1em .25em; }
pre code { background: none; padding: 0; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .92rem; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
details { border: 1px solid var(--line); border-radius: .3rem; margin: .5rem 0; padding: 0 1rem; }
summary { cursor: pointer; padding: .5rem 0; }
main img { max-width: 100%; height: auto; }
.method { display: inline-block; min-width: 4.5rem; font-weight: bold; }
@media (max-width: 50rem) { body { display: block; } nav { border-right: 0; border-bottom: 1px solid var(--line); } }
"""


def page(title: str, content: str, *, side: str) -> str:
    """Return a page. `content` and `side`, the navigation, are HTML; the title is text."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - Accelerator Autopilot</title>"
        f'<link rel="stylesheet" href="{CSS_PATH}"></head>'
        f"<body><nav>{side}</nav><main>{content}</main></body></html>"
    )
