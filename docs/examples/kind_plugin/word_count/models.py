"""What goes in and what comes out: programs that submit jobs import this, and no server code."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples


class WordCountResult(Result, Tabular):
    """How often each word comes, the most frequent first."""

    counts: dict[str, int]

    def rows(self) -> list[dict[str, Any]]:
        """One row a word."""
        return [{"word": word, "count": count} for word, count in self.counts.items()]


class WordCount(Payload[WordCountResult]):
    """The text, and how many words to return at most."""

    kind_name = "word-count"
    result_model = WordCountResult
    model_config = examples({"text": "one two two", "most": 1})

    text: str = Field(min_length=1, max_length=5_000_000)
    most: int = Field(default=100, ge=1, le=10_000)
