"""Call every function of a module with edge cases of its parameters' types, and print the outcomes as JSON lines.

Arguments: the module, and the time limit in seconds. Each call runs in its own process, so that one that hangs or
crashes the interpreter is only one case among others.
"""

import importlib
import inspect
import itertools
import json
import os
import select
import signal
import sys
import time
import typing

CALL_S = 2.0
MAX_HANGS = 2
MAX_ANSWER = 65_536

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
MAX_CALLS = 40
PLAIN = (int, float, str, bool, bytes, list, dict, set, tuple, type(None))


def edges(annotation):
    """Return edge cases of one parameter."""
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
    """Return argument tuples: all first cases, then one parameter at a time at each of its edges."""
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
    return list(itertools.islice(found, MAX_CALLS))


def plain(value):
    """Whether a value's repr evaluates to the same value."""
    if isinstance(value, (list, tuple, set)):
        return all(plain(v) for v in value)
    if isinstance(value, dict):
        return all(plain(k) and plain(v) for k, v in value.items())
    return type(value) in PLAIN and value == value and value not in (float("inf"), float("-inf"))


def attempt(function, arguments):
    """Return the outcome of one call, as the fields of its case."""
    fits = all(plain(a) for a in arguments)
    try:
        result = function(*eval(repr(arguments), {"inf": float("inf"), "nan": float("nan")}))
        shown = repr(result)
        return {"result": shown[:500], "plain": fits and plain(result) and len(shown) < 500}
    except Exception as error:
        name, text = type(error).__name__, str(error)[:200]
        return {"raises": name, "message": text, "builtin": type(error).__module__ == "builtins", "plain": fits}


def in_own_process(function, arguments, seconds):
    """Make one call in a child process that is killed when it exceeds its time."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            os.write(writing, json.dumps(attempt(function, arguments)).encode()[:MAX_ANSWER])
        finally:
            os._exit(0)
    os.close(writing)
    answer, until, ended = b"", time.monotonic() + seconds, False
    while (left := until - time.monotonic()) > 0:
        if not select.select([reading], [], [], left)[0]:
            break
        piece = os.read(reading, MAX_ANSWER)
        if not piece:
            ended = True
            break
        answer += piece
    try:
        os.kill(child, signal.SIGKILL)
        os.killpg(child, signal.SIGKILL)
    except OSError:
        pass
    os.close(reading)
    os.waitpid(child, 0)
    try:
        return json.loads(answer)
    except ValueError:
        why = "ended its process" if ended else f"did not end within {seconds:.0f} s"
        return {"raises": why, "message": "", "builtin": False, "plain": False, "endless": not ended}


def main():
    until = time.monotonic() + float(sys.argv[2])
    module = importlib.import_module(sys.argv[1])
    print("IMPORTED", flush=True)
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ != module.__name__ or name.startswith("_"):
            continue
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            continue
        endless = 0
        for arguments in calls(function):
            if endless == MAX_HANGS or time.monotonic() > until:
                break
            case = {"function": name, "arguments": repr(arguments)} | in_own_process(function, arguments, CALL_S)
            endless += case.pop("endless", False)
            print("CASE " + json.dumps(case), flush=True)


sys.path.insert(0, os.getcwd())
main()
