"""embed: turn texts into unit vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples


class EmbedResult(Result, Tabular):
    """One unit vector per text. `numpy.asarray(result)` has one row per text."""

    vectors: list[list[float]]
    model: str
    dimensions: int

    def __len__(self) -> int:
        """The number of vectors."""
        return len(self.vectors)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:  # noqa: FBT001  numpy's protocol
        """The vectors as an array of shape [texts, dimensions]."""
        if copy is False:
            raise ValueError("the vectors are lists: an array of them is always a copy")
        return np.asarray(self.vectors, dtype or np.float32).reshape(len(self.vectors), self.dimensions)

    def rows(self) -> list[dict[str, Any]]:
        """One row per text, one column per dimension."""
        return [{f"v{i}": value for i, value in enumerate(vector)} for vector in self.vectors]


class Embed(Payload[EmbedResult]):
    """Texts to embed; each is truncated to the model's context length."""

    kind_name = "embed"
    result_model = EmbedResult
    model_config = examples({"texts": ["The GPU overheated and was throttled.", "Bake it for forty minutes."]})

    texts: list[str] = Field(min_length=1, max_length=4096)
    model: str | None = Field(default=None, max_length=500, description="must be the configured model, if given")
