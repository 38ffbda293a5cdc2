"""What workers run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel

from accelerator_autopilot.inference.kinds.base import RunContext, each
from word_count.models import WordCount, WordCountResult


class WordCountKind:
    """Counts the words of each text by itself."""

    name = "word-count"
    input = WordCount
    output = WordCountResult
    max_batch = 64

    def run(self, inputs: Sequence[WordCount], context: RunContext) -> list[BaseModel | BaseException]:
        """One output an input; what one input raises is its own."""
        return each(lambda item, index: self._one(item, index, context), inputs)

    def _one(self, item: WordCount, index: int, context: RunContext) -> WordCountResult:
        counts = Counter(item.text.lower().split())
        context.progress(index, 1.0)
        return WordCountResult(counts=dict(counts.most_common(item.most)))


KIND = WordCountKind()
