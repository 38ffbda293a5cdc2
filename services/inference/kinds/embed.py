"""embed: texts to unit vectors with a sentence-transformer; all-MiniLM-L6-v2 from disk by default."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.inference.kinds.base import Input, RunContext, Tokens
from accelerator_autopilot.inference.model_loading import encoder


class EmbedInput(Input):
    """Texts to embed; each is cut at the model's context."""

    texts: list[str] = Field(min_length=1, max_length=4096)
    model: str | None = Field(default=None, max_length=500, description="must be the one that is configured")


class EmbedOutput(BaseModel):
    """One vector a text, of length 1."""

    vectors: list[list[float]]
    model: str
    dimensions: int


class Embed:
    """Embeds the texts of a whole batch together."""

    name = "embed"
    input = EmbedInput
    output = EmbedOutput
    max_batch = 256

    def run(self, inputs: Sequence[EmbedInput], context: RunContext) -> list[BaseModel | BaseException]:
        """Flatten, embed once, and hand each job its rows."""
        model = encoder(context.models)
        for item in inputs:
            if item.model not in {None, model.name}:
                raise InvalidInputError("model", item.model, f"does not embed here; what does: {model.name}")
        texts = [text for item in inputs for text in item.texts]
        vectors, counts = model.encode_counted(texts)
        outputs: list[BaseModel | BaseException] = []
        position = 0
        for index, item in enumerate(inputs):
            rows = vectors[position : position + len(item.texts)]
            context.tokens[index] = Tokens(prompt=sum(counts[position : position + len(item.texts)]))
            position += len(item.texts)
            outputs.append(EmbedOutput(vectors=rows.tolist(), model=model.name, dimensions=int(rows.shape[1])))
        return outputs


KIND = Embed()
