"""Documentation that can be checked: links, navigation, and every command that it shows."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml

from accelerator_autopilot.cli.app import app
from accelerator_autopilot.gateway.http.manual import links, navigation, parse
from accelerator_autopilot.scheduler.domain.observation import Reason

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
KINDS = {"tutorials", "how-to", "reference", "explanation"}
OUTSIDE = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PAGES = [*OUTSIDE, *sorted(DOCS.rglob("*.md"))]
CLI: Any = typer.main.get_command(app)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for token in parse(page.read_text()):
        for _, target in links(token.children or ()):
            path, _, fragment = target.partition("#")
            if ":" in path:
                assert page in OUTSIDE, f"{target}: the manual works without a network"
                continue
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not fragment or fragment in {t.attrGet("id") for t in parse(file.read_text())}, target


def test_every_page_is_of_one_kind_and_mkdocs_has_the_navigation_of_the_home_page() -> None:
    folders = {page.relative_to(DOCS).parts[0] for page in DOCS.rglob("*.md")}
    assert folders == KINDS | {"index.md", "adr"}
    home, *groups = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert home == {"Home": "index.md"}
    configured = [
        (title, [item for entry in entries for item in entry.items()])
        for group in groups
        for title, entries in group.items()
    ]
    assert configured == navigation((DOCS / "index.md").read_text())


def test_the_wheel_carries_every_file_of_the_manual() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["accelerator_autopilot.gateway.manual"]
    carried = {file for pattern in patterns for file in DOCS.glob(pattern)}
    wanted = {file for file in DOCS.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert {name_of(file) for file in wanted - carried} <= {"docs/examples/go/go.mod"}


def test_pages_that_the_code_names_exist() -> None:
    named = re.compile(r"(?<![\w/.-])docs/[\w/-]+\.(?:md|json)")
    sources = [ROOT / "compose.yaml", ROOT / "Makefile", ROOT / "setup.py"]
    for folder in ("shared", "services", "deploy", "tools", "docs/examples"):
        sources += [
            file for file in (ROOT / folder).rglob("*") if file.suffix in {".py", ".go", ".mjs", ".yaml", ".sql"}
        ]
    lost = {
        (name_of(source), page)
        for source in sources
        for page in named.findall(source.read_text(encoding="utf-8"))
        if not (ROOT / page).exists()
    }
    assert lost == set()


def test_the_reference_explains_every_reason_of_a_decision() -> None:
    page = (DOCS / "reference" / "scheduling.md").read_text()
    assert set(get_args(Reason)) <= set(re.findall(r"`(\w+)`", page))


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 250


def commands(text: str) -> Iterator[str]:
    """Every `autopilot …` of a page: in code blocks, one a line, and in code within text."""
    for token in parse(text):
        blocks = token.content.splitlines() if token.type in {"fence", "code_block"} else []
        spans = [child.content for child in token.children or () if child.type == "code_inline"]
        for line in [*blocks, *spans]:
            yield from re.findall(r"(?:^|[|;$] ?)\s*(autopilot [a-z].*)", line.split("#")[0].strip())


def checked(words: list[str]) -> str | None:
    """What is wrong with a command, if anything."""
    if words[1] not in CLI.commands:
        return f"there is no command {words[1]}"
    _, command, _ = CLI.resolve_command(typer.Context(CLI), words[1:])
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words[2:] if word.startswith("--") and word.partition("=")[0] not in known | {"--help"}]
    return f"{words[1]} has no {' '.join(unknown)}" if unknown else None


def test_every_command_shown_exists_with_its_options() -> None:
    shown = {
        (name_of(page), part.strip())
        for page in PAGES
        for found in commands(page.read_text())
        for part in re.split(r"\s*[;|]\s*(?=autopilot )", found)
    }
    assert len(shown) > 40
    wrong = [
        (page, text, fault)
        for page, text in sorted(shown)
        if (fault := checked(shlex.split(text.replace("[", "").replace("]", ""))))
    ]
    assert wrong == []


def test_a_wrong_command_or_option_is_noticed() -> None:
    assert checked(["autopilot", "sumbit"]) == "there is no command sumbit"
    assert checked(["autopilot", "submit", "echo", "--wiat"]) == "submit has no --wiat"
