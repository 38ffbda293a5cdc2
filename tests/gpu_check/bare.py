"""The same models without the product, as a script would run them: the baseline. A program of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from accelerator_autopilot.inference.adapters.energy_meter import energy_j
from accelerator_autopilot.inference.model_loading import encoder, image_classifier, text_classifier
from accelerator_autopilot.inference.settings import ModelSettings
from tests.gpu_check import models

SIZES = {"embed": (1, 64, 256), "classify": (1, 32, 128), "classify-image": (8, 32), "generate": (1, 16, 32)}


def runner(kind: str, settings: ModelSettings) -> tuple[Callable[[int], None], int]:
    """What runs so many inputs at once, and how many outputs each input has."""
    if kind == "embed":
        embedding = encoder(settings)
        return lambda n: void(embedding.encode(models.texts(n))), 1
    if kind == "classify":
        classifier = text_classifier(settings, str(settings.classify_model))
        return lambda n: void(classifier.scores(models.texts(n))), 1
    if kind == "classify-image":
        vision = image_classifier(settings)
        images = [models.image(i) for i in range(max(SIZES[kind]))]
        return lambda n: void(vision.scores(images[:n])), 1
    return generation(settings), models.TOKENS


def generation(settings: ModelSettings) -> Callable[[int], None]:
    """Transformers' own `generate` over a batch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name, device = str(settings.generate_model), settings.torch_device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device).eval()
    tokens = AutoTokenizer.from_pretrained(name, padding_side="left")

    @torch.inference_mode()
    def run(count: int) -> None:
        inputs = tokens(models.texts(count), padding=True, return_tensors="pt").to(device)
        inputs.pop("token_type_ids", None)
        out = model.generate(**inputs, max_new_tokens=models.TOKENS, min_new_tokens=models.TOKENS, do_sample=False)
        tokens.batch_decode(out)

    return run


def void(_: Any) -> None:
    """An output that nobody needs."""


def measure(kind: str, settings: ModelSettings, seconds: float) -> dict[str, Any]:
    """Outputs a second one by one and at the best batch size, and joules an output there."""
    run, outputs = runner(kind, settings)
    rates: dict[int, tuple[float, float | None]] = {}
    for size in SIZES[kind]:
        run(size)
        before, began, done = energy_j(settings.torch_device), time.perf_counter(), 0
        while time.perf_counter() - began < seconds / len(SIZES[kind]):
            run(size)
            done += size * outputs
        took, after = time.perf_counter() - began, energy_j(settings.torch_device)
        spent = (after - before) / done if before is not None and after is not None else None
        rates[size] = (done / took, spent)
    best = max(rates, key=lambda size: rates[size][0])
    return {
        "per_s": {str(size): round(rate, 1) for size, (rate, _) in rates.items()},
        "joules_by_batch": {str(size): joules for size, (_, joules) in rates.items()},
        "best_per_s": rates[best][0], "best_batch": best, "joules": rates[best][1],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], ModelSettings(), float(sys.argv[2]))))
