"""Analyse code of other languages with tree-sitter: syntax errors, dangerous calls, long and deep functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from accelerator_autopilot.contracts.kinds.analyze_code import Category, CodeFinding

EXTENSIONS = {
    ".py": "python", ".pyi": "python", ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript",
    ".jsx": "javascript", ".ts": "typescript", ".tsx": "tsx", ".java": "java", ".go": "go", ".rs": "rust", ".c": "c",
    ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".hpp": "cpp", ".cu": "cpp", ".cuh": "cpp", ".sh": "bash",
    ".bash": "bash",
}  # fmt: skip
# Where the grammar is: module and function.
GRAMMARS = {
    "javascript": ("tree_sitter_javascript", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"), "java": ("tree_sitter_java", "language"),
    "go": ("tree_sitter_go", "language"), "rust": ("tree_sitter_rust", "language"), "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"), "bash": ("tree_sitter_bash", "language"),
}  # fmt: skip
FUNCTIONS = {
    "function_declaration", "function_definition", "method_definition", "method_declaration", "function_item",
    "arrow_function", "function_expression", "constructor_declaration", "func_literal",
}  # fmt: skip
NESTING = {
    "if_statement", "for_statement", "while_statement", "do_statement", "switch_statement", "match_expression",
    "if_expression", "for_expression", "while_expression", "loop_expression", "try_statement", "enhanced_for_statement",
    "for_in_statement", "for_range_loop",
}  # fmt: skip
LONG_LINES, DEEP = 100, 5


@dataclass(frozen=True)
class Danger:
    """A call that deserves a review."""

    rule: str
    category: Category
    message: str


def _dangers(names: str, rule: str, message: str, category: Category = "security") -> dict[str, Danger]:
    return {name: Danger(rule, category, message) for name in names.split()}


C_CALLS = (
    _dangers("gets strcpy strcat sprintf vsprintf", "C001", "writes without a limit; use the variant with a size")
    | _dangers("system popen", "C002", "runs a shell; arguments from outside become commands")
    | _dangers(
        "cudaMalloc cudaFree", "GPU101", "allocates on the device each time; keep buffers, or cudaMallocAsync", "gpu"
    )
    | _dangers("cudaDeviceSynchronize", "GPU102", "waits for all of the device; events or streams wait for less", "gpu")
)
DANGERS: dict[str, dict[str, Danger]] = {
    "javascript": _dangers("eval Function", "JS001", "runs text as code")
    | _dangers("document.write", "JS002", "writes markup from text; a way in for scripts")
    | _dangers("child_process.exec exec execSync", "JS003", "runs a shell; arguments from outside become commands"),
    "java": _dangers("Runtime.getRuntime().exec", "JV001", "runs a command; arguments from outside become commands")
    | _dangers("MessageDigest.getInstance", "JV002", "choose SHA-256 or better, never MD5 or SHA-1"),
    "go": _dangers("exec.Command", "GO001", "runs a command; arguments from outside become commands")
    | _dangers("md5.New sha1.New", "GO002", "is broken for signatures; use sha256"),
    "rust": _dangers("std::mem::transmute mem::transmute", "RS001", "reinterprets memory; prefer a safe conversion"),
    "c": C_CALLS,
    "cpp": C_CALLS,
    "bash": _dangers("eval", "SH001", "runs text as commands"),
}
DANGERS["typescript"] = DANGERS["tsx"] = DANGERS["javascript"]


def language_of(name: str, text: str) -> str | None:
    """Return the language of a file, by its extension, else by its first line, else by which grammar parses it best."""
    known = EXTENSIONS.get(PurePosixPath(name).suffix.lower())
    if known:
        return known
    first = text.split("\n", 1)[0]
    if first.startswith("#!"):
        return "python" if "python" in first else "bash" if "sh" in first else "javascript" if "node" in first else None
    return _guess(text) if not PurePosixPath(name).suffix else None


def _guess(text: str) -> str | None:
    sample = text[:20_000]
    try:
        compile(sample, "sample", "exec", flags=0x400)  # ast.PyCF_ONLY_AST: parses without running
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        scores = {
            name: _errors(sample, name) for name in ("javascript", "typescript", "java", "go", "rust", "c", "cpp")
        }
        best = min(scores, key=scores.__getitem__)
        return best if scores[best] < 0.1 else None
    return "python"


def _errors(text: str, language: str) -> float:
    """Return the share of the text that a grammar cannot parse."""
    tree = _parser(language).parse(text.encode())
    lost = sum(node.end_byte - node.start_byte for node in _walk(tree.root_node) if node.type == "ERROR")
    return float(lost) / max(1, len(text.encode()))


@cache
def _parser(language: str) -> Any:
    from tree_sitter import Language, Parser  # noqa: PLC0415  a worker starts faster without

    module, function = GRAMMARS[language]
    return Parser(Language(getattr(import_module(module), function)()))


def analyse_other(files: Mapping[str, tuple[str, str]]) -> list[CodeFinding]:
    """Return the findings of files that are not Python, given as name to (language, text)."""
    findings = []
    for name, (language, text) in files.items():
        tree = _parser(language).parse(text.encode())
        findings += list(_of_file(name, language, tree.root_node))
    return findings


def _of_file(name: str, language: str, root: Any) -> Iterator[CodeFinding]:
    dangers = DANGERS.get(language, {})
    for node in _walk(root):
        line, column = node.start_point[0] + 1, node.start_point[1] + 1
        place = {"file": name, "line": line, "column": column, "tool": "tree-sitter"}
        if node.type == "ERROR" or node.is_missing:
            yield CodeFinding(
                **place, rule="SYNTAX", category="syntax", severity="error", message=f"is no valid {language}"
            )
        elif node.type in {"call_expression", "method_invocation", "command", "new_expression"}:
            called = _called(node)
            danger = dangers.get(called) or dangers.get(called.rsplit(".", 1)[-1])
            if danger:
                yield CodeFinding(
                    **place, rule=danger.rule, category=danger.category, severity="warning",
                    message=f"{called} {danger.message}",
                )  # fmt: skip
        elif node.type in FUNCTIONS:
            length, depth = node.end_point[0] - node.start_point[0] + 1, _depth(node)
            if length > LONG_LINES or depth > DEEP:
                text = f"a function of {length} lines, nested {depth} deep"
                yield CodeFinding(**place, rule="LONG", category="complexity", severity="note", message=text)


def _called(node: Any) -> str:
    if node.type == "method_invocation":
        owner, method = node.child_by_field_name("object"), node.child_by_field_name("name")
        return ".".join(n.text.decode(errors="replace") for n in (owner, method) if n is not None)
    target = node.child_by_field_name("function") or node.child_by_field_name("constructor")
    target = target or node.child_by_field_name("name")
    return target.text.decode(errors="replace")[:200] if target is not None else ""


def _walk(node: Any) -> Iterator[Any]:
    waiting = [node]
    while waiting:
        one = waiting.pop()
        yield one
        waiting.extend(reversed(one.children))


def _depth(function: Any) -> int:
    deepest, waiting = 0, [(child, 0) for child in function.children]
    while waiting:
        node, depth = waiting.pop()
        depth += node.type in NESTING
        deepest = max(deepest, depth)
        waiting += [(child, depth) for child in node.children]
    return deepest
