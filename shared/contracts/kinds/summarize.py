"""summarize: reduce a text to its main points."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples


class SummarizeResult(Result):
    """The summary and the method used."""

    summary: str
    sentences: list[str]
    method: Literal["extractive", "generative"]
    model: str


class Summarize(Payload[SummarizeResult]):
    """A text, and the most sentences to keep."""

    kind_name = "summarize"
    result_model = SummarizeResult
    model_config = examples(
        {
            "text": (
                "The cluster lost two nodes on Monday. The cause was a failed power supply in rack four. "
                "Jobs moved to the other nodes within a minute. The supply was replaced on Tuesday morning."
            ),
            "max_sentences": 2,
        }
    )

    text: str = Field(min_length=1, max_length=5_000_000)
    max_sentences: int = Field(default=5, ge=1, le=50)
