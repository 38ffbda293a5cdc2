"""The models in this process's memory: loaded on first use, shared by all kinds, with usage counts.

A process has one device memory, so it has one cache. Dropping a model rarely frees all of its memory; only the end of
the process does, which the worker requests when its models are idle or do not fit.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.inference.errors import DeviceMemoryError, ModelLoadError

log = logging.getLogger(__name__)

T = TypeVar("T")


class ModelCache:
    """Caches models by a key of everything that distinguishes them."""

    def __init__(self) -> None:
        self._models: dict[tuple[object, ...], Any] = {}
        self._lock = threading.Lock()
        self.crowded = False
        self.on_loading: Callable[[bool], None] = lambda _: None
        self._loaded_s = 0.0
        self._loading_since: float | None = None

    def get(self, key: tuple[object, ...], load: Callable[[], T]) -> T:
        """Return the model under a key; `load` creates it.

        Raises ModelLoadError, and DeviceMemoryError when it does not fit beside the others.
        """
        with self._lock:
            if getattr(self._models.get(key), "ended", False):
                log.error("model ended, loading it again", extra={"model": str(key[1])})
                del self._models[key]
            if key not in self._models:
                self._loading_since = began = time.monotonic()
                self.on_loading(True)
                try:
                    self._models[key] = self._make_room_for(load)
                except AutopilotError:
                    raise
                except Exception as error:
                    # An error of the library would otherwise be blamed on each job.
                    raise ModelLoadError(f"model {key[1]!r} cannot be loaded: {one_line(error)}") from error
                finally:
                    self._loaded_s += time.monotonic() - began
                    self._loading_since = None
                    self.on_loading(False)
                log.info("model loaded", extra={"model": str(key[1]), "took_s": round(time.monotonic() - began, 3)})
            model: T = self._models[key]
        return model

    def _make_room_for(self, load: Callable[[], T]) -> T:
        try:
            return load()
        except Exception as error:
            if type(error).__name__ != "OutOfMemoryError" and not isinstance(error, MemoryError):
                raise
            if not self._models:
                raise DeviceMemoryError("the model does not fit into the device's memory") from error
        self._models.clear()
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            return load()
        except Exception as error:
            self.crowded = True
            raise DeviceMemoryError("the device's memory is in use; the worker restarts") from error

    def loading_s(self, now: float) -> float:
        """Return the seconds spent on loading models so far, at this value of `time.monotonic()`."""
        since = self._loading_since
        return self._loaded_s + (now - since if since is not None else 0.0)

    @property
    def names(self) -> list[str]:
        """The names of the models."""
        return sorted({str(key[1]) for key in self._models})


def one_line(error: BaseException) -> str:
    """Shorten a library's error message to its first line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(": ")


MODEL_CACHE = ModelCache()
