"""Rows of plain values, convertible to a data frame of pandas or polars where one of these is installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import UnavailableError

M = TypeVar("M", bound=BaseModel)


class Tabular:
    """Tabular data. Subclasses provide the rows."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the table as one dictionary per row."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame. Raises UnavailableError when pandas is not installed."""
        return _library("pandas").DataFrame(self.rows())

    def to_polars(self) -> Any:
        """Return a polars DataFrame. Raises UnavailableError when polars is not installed."""
        return _library("polars").DataFrame(self.rows(), infer_schema_length=None)


class _Row(Protocol):
    def row(self) -> dict[str, Any]: ...


class Rows(list[M], Tabular):
    """A list of models that can become a data frame, one row per model."""

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary per model: the result of its `row` method, else its fields."""
        return [cast("_Row", m).row() if hasattr(m, "row") else m.model_dump() for m in self]


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UnavailableError(f"{name} is not installed: pip install {name}") from error
