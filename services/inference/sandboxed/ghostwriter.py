"""Print property tests of a module's functions, one program per function, written by hypothesis' ghostwriter."""

import importlib
import inspect
import json
import os
import sys

from hypothesis.extra import ghostwriter

sys.path.insert(0, os.getcwd())
module = importlib.import_module(sys.argv[1])
for name, function in inspect.getmembers(module, inspect.isfunction):
    if function.__module__ == module.__name__ and not name.startswith("_"):
        try:
            print("TEST " + json.dumps({"function": name, "code": ghostwriter.magic(function)}), flush=True)
        except Exception as error:
            print("SKIP " + json.dumps({"function": name, "reason": type(error).__name__}), flush=True)
