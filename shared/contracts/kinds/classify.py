"""classify: assign labels to texts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples


class Classified(BaseModel):
    """The best label of a text, and the score of every label."""

    label: str
    score: float
    scores: dict[str, float]


class ClassifyResult(Result, Tabular):
    """One entry per text."""

    results: list[Classified]
    method: Literal["zero_shot", "classifier"]
    model: str

    def rows(self) -> list[dict[str, Any]]:
        """One row per text: its label and score, and one column per label."""
        return [
            {"label": r.label, "score": r.score} | {f"score_{n}": s for n, s in r.scores.items()} for r in self.results
        ]


class Classify(Payload[ClassifyResult]):
    """Texts and the labels to choose from: a list of names, or names with descriptions."""

    kind_name = "classify"
    result_model = ClassifyResult
    model_config = examples(
        {"texts": ["The striker scored twice.", "Shares fell."], "labels": ["sports", "finance", "cooking"]}
    )

    texts: list[str] = Field(min_length=1, max_length=4096)
    labels: list[str] | dict[str, str] | None = Field(default=None, description="the model's own by default")
    multi_label: bool = Field(default=False, description="score each label independently of the others")
