"""A sentence-transformer as an ONNX graph through ONNX Runtime, on TensorRT or CUDA where it was built with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from accelerator_autopilot.inference.errors import ModelLoadError
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.model_cache import one_line

BATCH = 64
CONTEXT_TOKENS = 256
GRAPHS = ("model.onnx", "onnx/model.onnx")
# In order of preference; CPU is always available.
ON_GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider")


def find_graph(folder: str) -> Path | None:
    """Return the graph file in a model folder, if there is one."""
    return next((Path(folder) / name for name in GRAPHS if (Path(folder) / name).is_file()), None)


class OnnxEncoder:
    """One ONNX graph in one inference session."""

    def __init__(self, name: str, graph: Path, folder: str, models: ModelSettings) -> None:
        self.name = name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = models.torch_threads
        offered = onnxruntime.get_available_providers()
        wanted = ON_GPU if models.torch_device != "cpu" else ()
        providers = [p for p in wanted if p in offered] + ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
            self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        except Exception as error:
            rule = f"is no readable ONNX model with a tokenizer.json: {one_line(error)}"
            raise ModelLoadError(f"embed_model={name!r}: {rule}") from error
        self._tokenizer.enable_truncation(CONTEXT_TOKENS)
        self._tokenizer.enable_padding()
        self._inputs = {i.name for i in self._session.get_inputs()}

    def encode(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Encode texts as an array [texts, dimensions] of unit vectors, in the order given."""
        return self.encode_counted(texts)[0]

    def encode_counted(self, texts: Sequence[str]) -> tuple[np.ndarray[Any, Any], list[int]]:
        """Encode texts, and return the number of tokens that the model read of each."""
        counts = [0] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[Any] = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            encoded = self._tokenizer.encode_batch([texts[i] for i in part])
            mask = np.array([e.attention_mask for e in encoded], dtype=np.int64)
            feed = {
                "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
                "attention_mask": mask,
                "token_type_ids": np.array([e.type_ids for e in encoded], dtype=np.int64),
            }
            hidden = self._session.run(None, {k: v for k, v in feed.items() if k in self._inputs})[0]
            weights = mask[:, :, None].astype(np.float32)
            pooled = (hidden * weights).sum(1) / np.maximum(weights.sum(1), 1)
            unit = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
            for i, row, read in zip(part, unit.astype(np.float32), mask.sum(1).tolist(), strict=True):
                rows[i], counts[i] = row, read
        return np.stack(rows), counts
