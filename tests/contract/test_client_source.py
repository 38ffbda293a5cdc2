"""The written parts of the client are up to date, and its public names are all there."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import accelerator_autopilot as ap
from accelerator_autopilot.client.aio.alerts import AsyncAlerts
from accelerator_autopilot.client.sync.alerts import Alerts
from tests.contract.client_source import payload_models, sources

ROOT = Path(ap.__file__ or "").resolve().parent


def test_written_modules_are_what_the_generator_writes() -> None:
    stale = [path.name for path, text in sources().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"run `make docs-generate`: {stale}"


def test_both_clients_have_the_same_methods() -> None:
    for one, other in ((ap.AsyncClient, ap.Client), (AsyncAlerts, Alerts)):
        ours = {name for name in dir(one) if not name.startswith("_")}
        ours -= {"open"} if one is ap.AsyncClient else set()
        assert ours == {name for name in dir(other) if not name.startswith("_")}


def test_every_kind_has_a_method_with_its_fields() -> None:
    for model in payload_models():
        parameters = inspect.signature(getattr(ap.Client, model.kind_name.replace("-", "_"))).parameters
        fields = {field.alias or name for name, field in model.model_fields.items()}
        assert fields <= set(parameters), model
        assert {"timeout", "priority", "pool", "deadline", "idempotency_key"} <= set(parameters)


def test_no_public_option_is_a_bag_of_anything() -> None:
    for owner in (ap.Client, ap.AsyncClient, Alerts):
        for name, method in inspect.getmembers(owner, callable):
            if not name.startswith("_"):
                kinds = {p.kind for p in inspect.signature(method).parameters.values()}
                assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{owner.__name__}.{name}"


def test_public_names_are_typed_and_there() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed | {"__version__"} == set(ap.__all__)
    assert set(ap.__all__) <= set(dir(ap))
    for name in ap.__all__:
        assert getattr(ap, name) is not None
    for model in payload_models():
        assert getattr(ap, model.__name__) is model
        assert getattr(ap, model.result_model.__name__) is model.result_model


def test_importing_the_package_loads_no_client() -> None:
    code = (
        "import sys, accelerator_autopilot.contracts.errors; "
        "heavy = ('accelerator_autopilot.client', 'pydantic', 'numpy', 'nats'); "
        "sys.exit(any(m.startswith(heavy) for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_client_loads_no_server_code() -> None:
    code = (
        "import sys, accelerator_autopilot as ap; [getattr(ap, n) for n in ap.__all__ if n != '__version__']; "
        "bad = ('faststream', 'prometheus_client', 'opentelemetry', 'anyio', 'torch', 'accelerator_autopilot.runtime', "
        "'accelerator_autopilot.inference', 'accelerator_autopilot.deploy'); "
        "print([m for m in sys.modules if m.startswith(bad)]); sys.exit(any(m.startswith(bad) for m in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
