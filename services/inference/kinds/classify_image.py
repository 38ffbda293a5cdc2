"""classify-image: images to labels, with any transformers vision model that is configured."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.classify_image import ClassifiedImage, ClassifyImage, ClassifyImageResult
from accelerator_autopilot.inference.kinds.base import RunContext, each
from accelerator_autopilot.inference.kinds.files import collect
from accelerator_autopilot.inference.model_loading import image_classifier

if TYPE_CHECKING:
    from PIL.Image import Image

    from accelerator_autopilot.inference.adapters.classifiers import ImageClassifier

# Pixels of one image, and of those decoded at once.
MAX_PIXELS = 64_000_000
# Decoders that run in-process; Pillow's others include EPS, which starts Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


class ClassifyImageKind:
    """The images of one job together."""

    name = "classify-image"
    input = ClassifyImage
    output = ClassifyImageResult
    max_batch = 16

    def run(self, inputs: Sequence[ClassifyImage], context: RunContext) -> list[BaseModel | BaseException]:
        """Classify the images of all jobs together, in chunks that fit the pixel limit."""
        model = image_classifier(context.models)
        albums = each(lambda item, _: _Album(item), inputs)
        waiting: list[tuple[_Album, str, Image]] = []
        for album in albums:
            if isinstance(album, _Album):
                for name, image in album.images():
                    if waiting and sum(_pixels(held) for *_, held in waiting) + _pixels(image) > MAX_PIXELS:
                        _score(model, waiting)
                        waiting = []
                    waiting.append((album, name, image))
        _score(model, waiting)
        return each(lambda album, _: _output(album, model.name), albums)


class _Album:
    """The images of one job."""

    def __init__(self, item: ClassifyImage) -> None:
        self._files, self._top = collect(item.files, item.archive), item.top
        self._found: dict[str, ClassifiedImage] = {}
        self._alone: InvalidInputError | None = None
        if not self._files:
            raise InvalidInputError("files", 0, "contains no image")

    def images(self) -> Iterator[tuple[str, Image]]:
        """Yield each image that can be read."""
        for name, data in self._files.items():
            try:
                yield name, _opened(name, data)
            except InvalidInputError as error:
                self._alone = error
                self._found[name] = ClassifiedImage(name=name, error=str(error))

    def add(self, name: str, scores: dict[str, float]) -> None:
        """Store the model's scores of an image."""
        best = dict(sorted(scores.items(), key=lambda pair: -pair[1])[: self._top])
        label = next(iter(best))
        self._found[name] = ClassifiedImage(name=name, label=label, score=best[label], scores=best)

    def output(self, model: str) -> ClassifyImageResult:
        """Return all images in the order given. Raises InvalidInputError when none can be read."""
        if self._alone is not None and len(self._files) == 1:
            raise self._alone
        if all(image.error for image in self._found.values()):
            first = self._found[next(iter(self._files))]
            raise InvalidInputError(
                "files", len(self._files), f"contains no readable image; the first error: {first.error}"
            )
        return ClassifyImageResult(images=[self._found[name] for name in self._files], model=model)


def _opened(name: str, data: bytes) -> Image:
    from PIL import Image as images  # noqa: N813, PLC0415  a worker starts faster without

    try:
        image = images.open(io.BytesIO(data), formats=FORMATS)
        decoded = image.convert("RGB") if _pixels(image) <= MAX_PIXELS else None
    except Exception as error:  # Pillow's decoders raise arbitrary errors for broken files
        raise InvalidInputError(name, f"{len(data)} bytes", f"is not a readable {', '.join(FORMATS)} image") from error
    if decoded is None:
        raise InvalidInputError(name, f"{image.width}x{image.height}", f"may have at most {MAX_PIXELS} pixels")
    return decoded


def _pixels(image: Image) -> int:
    return image.width * image.height


def _output(album: _Album | BaseException, model: str) -> BaseModel:
    if isinstance(album, BaseException):
        raise album
    return album.output(model)


def _score(model: ImageClassifier, waiting: Sequence[tuple[_Album, str, Image]]) -> None:
    if waiting:
        for (album, name, _), scores in zip(waiting, model.scores([image for *_, image in waiting]), strict=True):
            album.add(name, scores)


KIND = ClassifyImageKind()
