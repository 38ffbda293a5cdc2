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
        """Encode texts as an array [texts, dimensions] of unit vectors, in the order given."""

    def encode_counted(self, texts: Sequence[str]) -> tuple[np.ndarray[Any, Any], list[int]]:
        """Encode texts, and return the number of tokens that the model read of each."""


class Summarizer(Protocol):
    """A long text to a short one."""

    name: str

    def summarize(self, text: str) -> str:
        """Summarise a text."""


@dataclass(frozen=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate, and when to stop. `temperature` 0 always picks the likeliest token."""

    prompt: str | Sequence[ChatMessage]
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
        """Start one generation; `on_text` gets each new piece.

        Raises InvalidInputError for a prompt longer than the context.
        """
