"""classify-image: assign labels to images."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples
from accelerator_autopilot.contracts.kinds.files import File

# A PNG of 8 by 8 black pixels.
_BLACK = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAADUlEQVR4nGNgGAWkAwABOAABXKFuOwAAAABJRU5ErkJggg=="


class ClassifiedImage(BaseModel):
    """The most likely labels of one image, best first, or the error."""

    name: str
    label: str = ""
    score: float = 0.0
    scores: dict[str, float] = {}
    error: str = ""


class ClassifyImageResult(Result, Tabular):
    """One entry per image."""

    images: list[ClassifiedImage]
    model: str

    def rows(self) -> list[dict[str, Any]]:
        """One row per image."""
        return [i.model_dump(include={"name", "label", "score", "error"}) for i in self.images]


class ClassifyImage(Payload[ClassifyImageResult]):
    """Images as files, or an archive of them in base64."""

    kind_name = "classify-image"
    result_model = ClassifyImageResult
    model_config = examples({"files": [{"name": "black.png", "base64": _BLACK}]})

    files: list[File] = Field(default=[], max_length=1024)
    archive: str | None = None
    top: int = Field(default=5, ge=1, le=100)
