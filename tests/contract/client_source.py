"""The parts of the client that are written from others.

`client.aio.kinds` has a method for each built-in kind, from its payload's model; each module of `client.sync` has the
methods of the module of `client.aio` with the same name, which wait. `python -m tests.contract.generate` writes them.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

import accelerator_autopilot.contracts.kinds
from accelerator_autopilot.contracts.kinds.base import Payload

CLIENT = Path(__file__).resolve().parents[2] / "shared" / "client"
MARK = "# Written by `make docs-generate` from {source}: change that instead.\n"
MODULES = ("kinds", "jobs", "fleet", "alerts")
CLASSES = {
    "AsyncKindMethods": "KindMethods",
    "AsyncJobMethods": "JobMethods",
    "AsyncFleetMethods": "FleetMethods",
    "AsyncAlerts": "Alerts",
}
TYPES = {"AsyncJob": "Job", "AsyncBatch": "Batch", "AsyncIterator": "Iterator"}
WAITS = {"AsyncJob": "_job", "AsyncBatch": "_batch", "AsyncIterator": "_iterate"}
WIDTH = 112
OPTIONS = [
    "timeout: float | None = 300.0",
    'priority: Priority = "normal"',
    "pool: str | None = None",
    "needs: JobNeeds | None = None",
    "deadline: When | None = None",
    "time_limit: float | None = None",
    "max_attempts: int = 3",
    "idempotency_key: str | None = None",
]
PASSED = [option.partition(":")[0] for option in OPTIONS]


def payload_models() -> list[type[Payload[Any]]]:
    """The payload of every built-in kind, by name."""
    found = {}
    for module in pkgutil.iter_modules(accelerator_autopilot.contracts.kinds.__path__):
        held = importlib.import_module(f"{accelerator_autopilot.contracts.kinds.__name__}.{module.name}")
        for value in vars(held).values():
            if isinstance(value, type) and issubclass(value, Payload) and "kind_name" in vars(value):
                found[value.kind_name] = value
    return [found[name] for name in sorted(found)]


def sources() -> dict[Path, str]:
    """What each written file must hold."""
    kinds = _formatted(_kinds_source(), CLIENT / "aio" / "kinds.py")
    found = {CLIENT / "aio" / "kinds.py": kinds}
    for name in MODULES:
        text = kinds if name == "kinds" else (CLIENT / "aio" / f"{name}.py").read_text(encoding="utf-8")
        path = CLIENT / "sync" / f"{name}.py"
        found[path] = _formatted(_sync_source(name, text), path)
    return found


def _kinds_source() -> str:
    methods = [_kind_method(model) for model in payload_models()]
    imports = sorted({line for _, needed in methods for line in needed})
    return "\n".join(
        [
            '"""A method for each built-in job kind."""',
            MARK.format(source="the models in contracts.kinds"),
            "from __future__ import annotations",
            "from collections.abc import Iterable, Mapping",
            "from typing import Any, Literal",
            "from accelerator_autopilot.client.aio.jobs import AsyncJobMethods",
            "from accelerator_autopilot.client.submit_options import When, make_payload",
            "from accelerator_autopilot.contracts.messages.jobs import JobNeeds, Priority",
            *imports,
            "# fmt: off",
            "class AsyncKindMethods(AsyncJobMethods):",
            '    """Run a job of a kind and return its result. Options and errors are those of `run`."""',
            *(text for text, _ in methods),
        ]
    )


def _kind_method(model: type[Payload[Any]]) -> tuple[str, set[str]]:
    """The method of a kind and the imports that it needs."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    first = next((name for name, field in fields.items() if field.is_required()), next(iter(fields)))
    needed = {_import(model), _import(model.result_model)}
    types_ = {name: _type(field.annotation, needed, parameter=True) for name, field in fields.items()}
    parameters = [_parameter(name, types_[name], fields[name]) for name in [first, *(n for n in fields if n != first)]]
    name = model.kind_name.replace("-", "_")
    made = [model.__name__, *(f"{field}={field}" for field in fields)]
    passed = [f"{option}={option}" for option in PASSED]
    told = [f"`{n}`: {f.description}." for n, f in fields.items() if f.description]
    doc = " ".join((model.__doc__ or "").split())
    head = f"async def {name}("
    tail = f") -> {model.result_model.__name__}:"
    lines = _folded(head, ["self", parameters[0], "*", *parameters[1:], *OPTIONS], tail)
    lines += (
        [f'    """{doc}', "", *(f"    {line}" for line in _wrapped(told)), '    """'] if told else [f'    """{doc}"""']
    )
    lines += [f"    {line}" for line in _folded("job = make_payload(", made, ")")]
    lines += [f"    {line}" for line in _folded("return await self.run(", ["job", *passed], ")")]
    return "\n".join(f"    {line}" if line else "" for line in ["", *lines]), needed


def _folded(head: str, parts: list[str], tail: str) -> list[str]:
    """A signature or a call in as few lines as it takes."""
    parts = [part.replace("'", '"') for part in parts]
    whole = f"{head}{', '.join(parts)}{tail}"
    if len(whole) <= WIDTH:
        return [whole]
    lines: list[str] = []
    for part in parts:
        if not lines or len(lines[-1]) + len(part) > WIDTH - 6:
            lines.append(f"{part},")
        else:
            lines[-1] += f" {part},"
    return [head, *(f"    {line}" for line in lines), tail]


def _wrapped(sentences: list[str]) -> Iterator[str]:
    import textwrap

    yield from textwrap.wrap(" ".join(sentences), 108)


def _parameter(name: str, type_: str, field: FieldInfo) -> str:
    if field.is_required():
        return f"{name}: {type_}"
    if isinstance(field.default, list | dict):
        return f"{name}: {type_} | None = None"
    return f"{name}: {type_} = {field.default!r}"


def _type(annotation: Any, needed: set[str], *, parameter: bool = False) -> str:  # noqa: PLR0911  a case a form
    """A type as source; of a parameter, what callers may hand in for it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "None"
    if annotation is Any:
        return "Any"
    if origin is Annotated:
        return _type(arguments[0], needed, parameter=parameter)
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in {Union, types.UnionType}:
        return " | ".join(_type(one, needed, parameter=parameter) for one in arguments)
    if origin in {list, dict}:
        outer = {list: "Iterable", dict: "Mapping"}[origin] if parameter else origin.__name__
        return f"{outer}[{', '.join(_type(one, needed) for one in arguments)}]"
    if annotation.__module__ != "builtins":
        needed.add(_import(annotation))
    return str(annotation.__name__)


def _import(model: type) -> str:
    return f"from {model.__module__} import {model.__name__}"


def _sync_source(name: str, text: str) -> str:
    """The blocking module of an asynchronous one."""
    tree = ast.parse(text)
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    client = "self._client.alerts" if name == "alerts" else "self._client"
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    constants = [node for node in tree.body if isinstance(node, ast.Assign)]
    overloaded = {node.name for node in owner.body if isinstance(node, ast.AsyncFunctionDef) and _is_overload(node)}
    methods = [
        # A call that may be any of the overloads is none of them to a type checker.
        _sync_method(node, f'cast("Any", {client})' if node.name in overloaded else client)
        for node in owner.body
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]
    lines = [
        f'"""{ast.get_docstring(tree).replace("asynchronous programs", "programs without an event loop")}"""',
        MARK.format(source=f"client.aio.{name}"),
        *map(ast.unparse, imports),
        "from collections.abc import Iterator",
        "from typing import cast",
        "from accelerator_autopilot.client.sync.base import Blocking",
        "from accelerator_autopilot.client.sync.batch import Batch",
        "from accelerator_autopilot.client.sync.job import Job",
        *map(ast.unparse, constants),
        *(["# fmt: off"] if name == "kinds" else []),
        f"class {CLASSES[owner.name]}(Blocking):",
        f'    """{ast.get_docstring(owner, clean=False)}"""',
        *methods,
    ]
    return "\n".join(lines)


def _sync_method(node: ast.AsyncFunctionDef, client: str) -> str:
    returned = ast.unparse(node.returns) if node.returns else "None"
    outer = returned.partition("[")[0]
    for name, other in TYPES.items():
        returned = returned.replace(f"{name}[", f"{other}[")
    parameters = _parameters(node.args)
    lines = _folded(f"def {node.name}(", parameters, f") -> {returned}:")
    head = "\n".join(f"    {line}" for line in lines)
    if _is_overload(node):
        return f"    @overload\n{head} ..."
    given = [arg.arg for arg in node.args.args[1:]] + [f"{arg.arg}={arg.arg}" for arg in node.args.kwonlyargs]
    doc = ast.get_docstring(node, clean=False)
    begin = f"{'' if returned == 'None' else 'return '}self.{WAITS.get(outer, '_wait')}({client}.{node.name}("
    done = "\n".join(f"        {line}" for line in _folded(begin, given, "))"))
    return f'\n{head}\n        """{doc}"""\n{done}'


def _is_overload(node: ast.AsyncFunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)


def _parameters(arguments: ast.arguments) -> list[str]:
    """Each parameter as source, `*` before the keyword-only ones."""
    first = len(arguments.args) - len(arguments.defaults)
    defaults: list[ast.expr | None] = [None] * first + list(arguments.defaults) + list(arguments.kw_defaults)
    written = []
    for arg, default in zip([*arguments.args, *arguments.kwonlyargs], defaults, strict=True):
        written.append(ast.unparse(arg) + (f" = {ast.unparse(default)}" if default is not None else ""))
    place = len(arguments.args)
    return written if not arguments.kwonlyargs else [*written[:place], "*", *written[place:]]


def _formatted(text: str, path: Path) -> str:
    """As ruff would leave it: without imports that nothing uses, and formatted."""
    for command in (["check", "--fix", "--quiet", "--select", "F401,I,D209,D200"], ["format", "--quiet"]):
        ran = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"],
            input=text, capture_output=True, text=True, check=False, cwd=CLIENT,
        )  # fmt: skip
        assert ran.stdout, ran.stderr
        text = ran.stdout
    return text
