"""embed: texts to unit vectors with a sentence-transformer; all-MiniLM-L6-v2 from disk by default."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.embed import Embed, EmbedResult
from accelerator_autopilot.inference.kinds.base import RunContext, Tokens
from accelerator_autopilot.inference.model_loading import encoder


class EmbedKind:
    """Embeds the texts of a whole batch together."""

    name = "embed"
    input = Embed
    output = EmbedResult
    max_batch = 256

    def run(self, inputs: Sequence[Embed], context: RunContext) -> list[BaseModel | BaseException]:
        """Embed all texts in one call, and give each job its rows."""
        model = encoder(context.models)
        for item in inputs:
            if item.model not in {None, model.name}:
                raise InvalidInputError(
                    "model", item.model, f"is not the embedding model of this pool; use {model.name}"
                )
        texts = [text for item in inputs for text in item.texts]
        vectors, counts = model.encode_counted(texts)
        outputs: list[BaseModel | BaseException] = []
        position = 0
        for index, item in enumerate(inputs):
            rows = vectors[position : position + len(item.texts)]
            context.tokens[index] = Tokens(prompt=sum(counts[position : position + len(item.texts)]))
            position += len(item.texts)
            outputs.append(EmbedResult(vectors=rows.tolist(), model=model.name, dimensions=int(rows.shape[1])))
        return outputs


KIND = EmbedKind()
