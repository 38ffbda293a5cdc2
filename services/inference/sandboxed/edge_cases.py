"""Try every function of a module with edge cases of its parameters' types, and print what came out as JSON lines."""

import importlib
import inspect
import itertools
import json
import sys
import typing

EDGES = {
    int: [0, 1, -1, 2**31, -(2**63)],
    float: [0.0, -0.0, 1.5, -1.5, 1e308, float("inf"), float("nan")],
    str: ["", "a", " ", "\u00e9\u4e2d\U0001f600", "a" * 1000, "0", "None"],
    bool: [True, False],
    bytes: [b"", b"\x00\xff"],
    list: [[], [0], [1, 2, 3], [None]],
    dict: [{}, {"a": 1}],
    set: [set(), {1, 2}],
    tuple: [(), (1, 2)],
    type(None): [None],
}
UNKNOWN = [None, 0, -1, "", "a", [], {}, 1.5]
MOST_CALLS = 40
PLAIN = (int, float, str, bool, bytes, list, dict, set, tuple, type(None))


def edges(annotation):
    """Edge cases of one parameter."""
    if annotation is inspect.Parameter.empty or annotation is typing.Any:
        return UNKNOWN
    origin = typing.get_origin(annotation)
    if origin is typing.Union or type(annotation).__name__ == "UnionType":
        return [value for part in typing.get_args(annotation) for value in edges(part)]
    inner = typing.get_args(annotation)
    if origin is list and inner:
        return [[], edges(inner[0])[:1], edges(inner[0])[:3]]
    return EDGES.get(origin or annotation, UNKNOWN)


def calls(function):
    """Argument tuples: all first cases, then one parameter at a time at each of its edges."""
    try:
        hints = typing.get_type_hints(function)
    except Exception:
        hints = {}
    parameters = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and (p.default is p.empty or p.name in hints)
    ]
    choices = [edges(hints.get(p.name, p.annotation)) for p in parameters]
    if not choices:
        return [()]
    usual = [c[min(1, len(c) - 1)] for c in choices]
    found = [tuple(usual)]
    for index, options in enumerate(choices):
        for value in options:
            found.append((*usual[:index], value, *usual[index + 1 :]))
    return list(itertools.islice(found, MOST_CALLS))


def plain(value):
    """Whether a value's repr makes the same value again."""
    if isinstance(value, (list, tuple, set)):
        return all(plain(v) for v in value)
    if isinstance(value, dict):
        return all(plain(k) and plain(v) for k, v in value.items())
    return type(value) in PLAIN and value == value and value not in (float("inf"), float("-inf"))


def main():
    module = importlib.import_module(sys.argv[1])
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ != module.__name__ or name.startswith("_"):
            continue
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            continue
        for arguments in calls(function):
            case = {"function": name, "arguments": repr(arguments), "plain": all(plain(a) for a in arguments)}
            try:
                result = function(*eval(repr(arguments), {"inf": float("inf"), "nan": float("nan")}))
                case |= {
                    "result": repr(result)[:500],
                    "plain": case["plain"] and plain(result) and len(repr(result)) < 500,
                }
            except Exception as error:
                case |= {"raises": type(error).__name__, "message": str(error)[:200]}
                case["builtin"] = type(error).__module__ == "builtins"
            print("CASE " + json.dumps(case), flush=True)


main()
