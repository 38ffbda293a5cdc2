"""Mutation testing of pure domain code with cosmic-ray.

python -m tools.mutation [--sample N] [--seed S] [notifier|inference …]

It works on a copy, since mutants are written into the files. A process that has loaded everything but the services
forks for each mutant, which takes a fraction of a second instead of several. Fails where fewer than 85 % of the mutants
are killed. Mutants that differ only in annotations are left out: nothing runs these, and mypy checks them.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "accelerator_autopilot"
LEAST_KILLED_PCT = 85.0
BELOW_THE_SERVICES = {"contracts", "transport", "client", "runtime"}  # import-linter holds it
LONGEST_S, LONGEST_FIRST_S = 60.0, 300.0
REPORT_EVERY = 25
UNUSED_PLUGINS = ("cacheprovider", "unraisableexception", "threadexception", "faulthandler")
UNIT = "tests/unit"
DELIVERY, LEDGER = f"{UNIT}/test_delivery_rules.py", f"{UNIT}/test_subscription_ledger.py"
POOL, WORKER = f"{UNIT}/test_pool_rules.py", f"{UNIT}/test_worker_rules.py"
NOTIFIER_DOMAIN, POOL_DOMAIN = "services/notifier/domain", "services/inference/pool/domain"
WORKER_DOMAIN = "services/inference/worker/domain"
# By module, the tests that are to notice its mutants: fewer tests are more mutants an hour.
TARGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "notifier": {
        f"{NOTIFIER_DOMAIN}/circuit_breaker.py": (f"{DELIVERY}::TestCircuitBreaker",),
        f"{NOTIFIER_DOMAIN}/delivery_rules.py": tuple(
            f"{DELIVERY}::{name}" for name in ("TestWants", "TestQuietHours", "TestHold", "TestRates")
        ),
        f"{NOTIFIER_DOMAIN}/message_formats.py": (f"{DELIVERY}::TestFormats",),
        f"{NOTIFIER_DOMAIN}/subscription_ledger.py": (LEDGER,),
    },
    "inference": {
        f"{POOL_DOMAIN}/device_trust.py": (f"{POOL}::TestDeviceTrust",),
        f"{POOL_DOMAIN}/job_dependencies.py": (f"{POOL}::TestDependencies",),
        f"{POOL_DOMAIN}/placement.py": (f"{POOL}::TestPlacement",),
        f"{POOL_DOMAIN}/stream_fill_alarm.py": (f"{POOL}::TestStreamFill",),
        f"{POOL_DOMAIN}/throttling.py": (f"{POOL}::TestThrottling",),
        f"{WORKER_DOMAIN}/batch_sizing.py": (f"{WORKER}::TestBatchSizer",),
        f"{WORKER_DOMAIN}/priorities.py": (f"{WORKER}::TestStridePicker", f"{WORKER}::TestFairOrder"),
        "services/inference/jobs/retry_policy.py": (f"{WORKER}::TestExpiry", f"{WORKER}::TestAttempts"),
    },
}
CONFIG = """
[cosmic-ray]
module-path = [{modules}]
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -x -q {tests}"

[cosmic-ray.distributor]
name = "local"
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of what tests need, with a folder of links that makes our package importable from it."""

    folder: Path

    @property
    def links(self) -> Path:
        """The folder to import the package from."""
        return self.folder / "links"

    @classmethod
    def copied_to(cls, folder: Path) -> Checkout:
        """Make the copy."""
        for name in ("services", "shared", "deploy", "tests", "docs", "tools"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        copy = cls(folder)
        package = copy.links / PACKAGE
        package.mkdir(parents=True)
        for source in (*(folder / "shared").iterdir(), *(folder / "services").iterdir(), folder / "deploy"):
            (package / source.name).symlink_to(source)
        return copy

    def passes(self, tests: tuple[str, ...], *, longest_s: float, loaded: Path | None = None) -> bool:
        """Whether the tests pass, in a process of their own; `loaded` gets the names of the modules they import."""
        process = multiprocessing.get_context("fork").Process(target=self._run, args=(tests, loaded))
        process.start()
        process.join(longest_s)
        if process.exitcode is None:
            process.kill()
            process.join()
        return process.exitcode == 0

    def _run(self, tests: tuple[str, ...], loaded: Path | None) -> None:
        os.chdir(self.folder)
        # Of two versions of a file with one size, written in one second, a stored one would do for both.
        sys.dont_write_bytecode = loaded is None
        if loaded is None:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
        # Rewriting assertions costs time, and needs plug-ins that are not imported yet.
        without = [word for name in UNUSED_PLUGINS for word in ("-p", f"no:{name}")]
        code = int(pytest.main(["-x", "-q", "--assert=plain", *without, *tests]))
        if loaded is not None:
            loaded.write_text(json.dumps([name for name in sys.modules if unmutated(name)]), encoding="utf-8")
        os._exit(code)


def unmutated(module: str) -> bool:
    """Whether a module is the same for every mutant: of our package those that never import a service are."""
    if module.split(".", maxsplit=1)[0] in {"tests", "tools", "conftest", "__main__"}:
        return False
    return module == PACKAGE or not module.startswith(f"{PACKAGE}.") or module.split(".")[1] in BELOW_THE_SERVICES


def behaviour(source: str) -> str:
    """What a module does when it runs: its syntax tree without annotations."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def survives(copy: Checkout, mutation: MutationSpec, tests: tuple[str, ...]) -> bool | None:
    """Whether no test notices a mutant; None where it does not differ in what runs."""
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    with use_mutation(copy.folder / mutation.module_path, operator, mutation.occurrence) as (before, after):
        if after is None:
            return None
        with contextlib.suppress(SyntaxError):
            if behaviour(before) == behaviour(after):
                return None
        if not copy.passes(tests, longest_s=LONGEST_S):
            return False
    line = mutation.start_pos[0]
    old, new = before.splitlines()[line - 1], after.splitlines()[line - 1]
    print(
        f"survived: {mutation.module_path}:{line} {mutation.operator_name}\n  - {old.strip()}\n  + {new.strip()}",
        flush=True,
    )
    return True


def mutants(copy: Checkout, target: str) -> list[MutationSpec]:
    """All mutants of a target, as cosmic-ray finds them. Raises CalledProcessError where it cannot."""
    modules = TARGETS[target]
    config, session = copy.folder / "cosmic-ray.toml", copy.folder / f"{target}.sqlite"
    quoted = ", ".join(f'"{module}"' for module in modules)
    text = CONFIG.format(modules=quoted, timeout=LONGEST_S, python=sys.executable, tests=UNIT)
    config.write_text(text, encoding="utf-8")
    command = [Path(sys.executable).parent / "cosmic-ray", "init", config, session]
    subprocess.run(list(map(str, command)), cwd=copy.folder, check=True)
    with use_db(str(session), WorkDB.Mode.open) as database:
        return [mutation for item in database.work_items for mutation in item.mutations]


def killed_pct(copy: Checkout, target: str, sample: int | None, seed: int) -> float:
    """Share of mutants that the tests notice, in percent."""
    modules = TARGETS[target]
    loaded = copy.folder / "loaded.json"
    if not copy.passes(
        tuple(test for tests in modules.values() for test in tests), longest_s=LONGEST_FIRST_S, loaded=loaded
    ):
        sys.exit(f"the tests of {target} fail without a mutant")
    for name in json.loads(loaded.read_text(encoding="utf-8")):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.freeze()
    chosen = mutants(copy, target)
    if sample is not None:
        random.Random(seed).shuffle(chosen)
    for module in modules:
        shutil.rmtree((copy.folder / module).parent / "__pycache__", ignore_errors=True)
    alive, counted, same, began_s = 0, 0, 0, time.monotonic()
    for mutation in chosen:
        if counted == sample:
            break
        outcome = survives(copy, mutation, modules[str(mutation.module_path)])
        if outcome is None:
            same += 1
            continue
        alive, counted = alive + outcome, counted + 1
        if counted % REPORT_EVERY == 0:
            print(f"{counted} after {time.monotonic() - began_s:.0f} s, {alive} survived", flush=True)
    print(
        f"{target}: of {len(chosen)} mutants {counted} were run, {same} differ in nothing that runs, {alive} survived"
    )
    return 100.0 * (counted - alive) / max(1, counted)


def main() -> None:
    """Run the targets that the arguments name, else all."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutation")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="target", help=", ".join(TARGETS))
    parser.add_argument("--sample", type=int, help="run only so many mutants of each target, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args()
    low = []
    with tempfile.TemporaryDirectory() as scratch:
        copy = Checkout.copied_to(Path(scratch))
        sys.path[:0] = [str(copy.folder), str(copy.links)]
        for target in options.targets or TARGETS:
            killed = killed_pct(copy, target, options.sample, options.seed)
            print(f"{target}: {killed:.1f} % of mutants killed", flush=True)
            low += [target] if killed < LEAST_KILLED_PCT else []
    if low:
        sys.exit(f"fewer than {LEAST_KILLED_PCT:.0f} % of the mutants of {', '.join(low)} were killed")


if __name__ == "__main__":
    main()
