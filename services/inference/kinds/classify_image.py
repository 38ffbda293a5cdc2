"""classify-image: images to labels, with any transformers vision model that is configured."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from services.inference.kinds.base import Input, RunContext, each
from services.inference.kinds.files import FileInput, collect
from services.inference.models import image_classifier
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from services.inference.adapters.classifiers import ImageClassifier

# Of one image, and of those that are held as pixels at once.
MOST_PIXELS = 64_000_000
# Decoders that stay within their process; Pillow's others include EPS, which starts Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


class ClassifyImageInput(Input):
    """Images as files, or an archive of them in base64."""

    files: list[FileInput] = Field(default=[], max_length=1024)
    archive: str | None = None
    top: int = Field(default=5, ge=1, le=100)


class ClassifiedImage(BaseModel):
    """The likeliest labels of one image, best first, or why it has none."""

    name: str
    label: str = ""
    score: float = 0.0
    scores: dict[str, float] = {}
    error: str = ""


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
        model = image_classifier(context.models)
        files = collect(item.files, item.archive)
        if not files:
            raise InvalidInputError("files", 0, "holds no image")
        found: list[ClassifiedImage] = []
        waiting: dict[str, Image] = {}
        for name, data in files.items():
            try:
                image = _opened(name, data)
            except InvalidInputError as error:
                if len(files) == 1:
                    raise
                found.append(ClassifiedImage(name=name, error=str(error)))
                continue
            if sum(_pixels(held) for held in waiting.values()) + _pixels(image) > MOST_PIXELS:
                found += _scored(model, waiting, item.top)
                waiting = {}
            waiting[name] = image
        found += _scored(model, waiting, item.top)
        if all(image.error for image in found):
            raise InvalidInputError("files", len(found), f"holds no readable image; the first: {found[0].error}")
        order = list(files)
        return ClassifyImageOutput(images=sorted(found, key=lambda f: order.index(f.name)), model=model.name)


def _opened(name: str, data: bytes) -> Image:
    from PIL import Image as images  # noqa: N813, PLC0415  a worker starts faster without

    try:
        image = images.open(io.BytesIO(data), formats=FORMATS)
        if _pixels(image) > MOST_PIXELS:
            raise InvalidInputError(name, f"{image.width}x{image.height}", f"may have {MOST_PIXELS} pixels")
        return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, images.DecompressionBombError) as error:
        raise InvalidInputError(name, f"{len(data)} bytes", f"is no readable {', '.join(FORMATS)}") from error


def _pixels(image: Image) -> int:
    return image.width * image.height


def _scored(model: ImageClassifier, images: dict[str, Image], top: int) -> list[ClassifiedImage]:
    found = []
    for name, scores in zip(images, model.scores(list(images.values())) if images else [], strict=True):
        best = dict(sorted(scores.items(), key=lambda pair: -pair[1])[:top])
        label = next(iter(best))
        found.append(ClassifiedImage(name=name, label=label, score=best[label], scores=best))
    return found


KIND = ClassifyImage()
