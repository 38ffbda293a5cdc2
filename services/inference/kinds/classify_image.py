"""classify-image: images to labels, with any transformers vision model that is configured."""

from __future__ import annotations

import io
from collections.abc import Sequence

from pydantic import BaseModel, Field

from services.inference.kinds.base import Input, RunContext, each
from services.inference.kinds.files import FileInput, collect
from services.inference.models import image_classifier
from shared.errors import InvalidInputError

MOST_PIXELS = 64_000_000


class ClassifyImageInput(Input):
    """Images as files, or an archive of them in base64."""

    files: list[FileInput] = Field(default=[], max_length=1024)
    archive: str | None = None
    top: int = Field(default=5, ge=1, le=100)


class ClassifiedImage(BaseModel):
    """The likeliest labels of one image, best first."""

    name: str
    label: str
    score: float
    scores: dict[str, float]


class ClassifyImageOutput(BaseModel):
    """One entry an image."""

    images: list[ClassifiedImage]
    model: str


class ClassifyImage:
    """The images of one job together."""

    name = "classify-image"
    input = ClassifyImageInput
    output = ClassifyImageOutput
    max_batch = 16

    def run(self, inputs: Sequence[ClassifyImageInput], context: RunContext) -> list[BaseModel | BaseException]:
        """Classify each job's images."""
        return each(lambda item, _: self._one(item, context), inputs)

    def _one(self, item: ClassifyImageInput, context: RunContext) -> ClassifyImageOutput:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415  a worker starts faster without

        model = image_classifier(context.models)
        files = collect(item.files, item.archive)
        if not files:
            raise InvalidInputError("files", 0, "holds no image")
        images = []
        for name, data in files.items():
            try:
                image = Image.open(io.BytesIO(data))
                if image.width * image.height > MOST_PIXELS:
                    raise InvalidInputError(name, f"{image.width}x{image.height}", f"may have {MOST_PIXELS} pixels")
                images.append(image.convert("RGB"))
            except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
                raise InvalidInputError(name, f"{len(data)} bytes", "is no readable image") from error
        found = []
        for name, scores in zip(files, model.scores(images), strict=True):
            best = dict(sorted(scores.items(), key=lambda pair: -pair[1])[: item.top])
            label = next(iter(best))
            found.append(ClassifiedImage(name=name, label=label, score=best[label], scores=best))
        return ClassifyImageOutput(images=found, model=model.name)


KIND = ClassifyImage()
