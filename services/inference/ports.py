"""Ports of the job kinds: models, independent of the library that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

FinishReason = Literal["stop", "length", "cancelled"]


class Encoder(Protocol):
    """Texts to vectors."""

    name: str

    def encode(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Texts to an array [texts, dimensions] of unit vectors, in the order given."""

    def encode_counted(self, texts: Sequence[str]) -> tuple[np.ndarray[Any, Any], list[int]]:
        """The same, and the tokens that the model read of each text."""


class Summarizer(Protocol):
    """A long text to a short one."""

    name: str

    def summarize(self, text: str) -> str:
        """The text's summary."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate, and when to stop. `temperature` 0 takes the likeliest token each time."""

    prompt: str | Sequence[Message]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: Sequence[str] = ()


@dataclass(frozen=True)
class Generated:
    """A finished generation."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason


class Generator(Protocol):
    """A causal language model that generates many texts at once."""

    name: str

    def start(
        self, request: GenerationRequest, on_text: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Future[Generated]:
        """Begin; `on_text` gets each new piece. Raises InvalidInputError for a prompt longer than the context."""
