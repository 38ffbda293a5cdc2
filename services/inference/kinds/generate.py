"""generate: a prompt to a text, with a configured causal model; jobs join a running batch at any token."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Literal

from pydantic import BaseModel, Field

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.inference.kinds.base import Input, RunContext, Tokens
from accelerator_autopilot.inference.model_loading import generator
from accelerator_autopilot.inference.ports import Generated, GenerationRequest


class Sampling(Input):
    """Which model, how to choose tokens, and when to stop."""

    model: str | None = Field(default=None, max_length=500, description="one that is configured; the first by default")
    max_tokens: int = Field(default=256, ge=1, le=131_072)
    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: list[str] = Field(default=[], max_length=16)


class GenerateInput(Sampling):
    """A prompt."""

    prompt: str = Field(min_length=1, max_length=10_000_000)


class GenerateOutput(BaseModel):
    """The text, and why it ended. While it runs, `partial` tells {"text": piece, "offset": characters before it}."""

    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    model: str
    prompt_tokens: int
    completion_tokens: int


class Generate:
    """One text a job."""

    name = "generate"
    input = GenerateInput
    output = GenerateOutput

    def start(self, item: GenerateInput, context: RunContext) -> Future[BaseModel]:
        """Begin one text."""
        return begin(item.prompt, item, context)


def begin(prompt: Any, item: Sampling, context: RunContext) -> Future[BaseModel]:
    """Begin a generation and tell its pieces; shared with `chat`."""
    model = generator(context.models, _chosen(item.model, context))
    told = 0
    ended: Future[BaseModel] = Future()

    def on_text(piece: str) -> None:
        nonlocal told
        context.partial(0, {"text": piece, "offset": told})
        told += len(piece)

    def on_end(work: Future[Generated]) -> None:
        try:
            done = work.result()
            context.tokens[0] = Tokens(done.prompt_tokens, done.completion_tokens)
            output = GenerateOutput(
                text=done.text,
                finish_reason=done.finish_reason,
                model=model.name,
                prompt_tokens=done.prompt_tokens,
                completion_tokens=done.completion_tokens,
            )
        except BaseException as error:  # noqa: BLE001  what is raised in a callback would leave the job without an end
            ended.set_exception(error)
        else:
            ended.set_result(output)

    request = GenerationRequest(prompt, item.max_tokens, item.temperature, item.top_p, tuple(s for s in item.stop if s))
    work = model.start(request, on_text, lambda: context.cancelled(0))
    work.add_done_callback(on_end)
    return ended


def _chosen(name: str | None, context: RunContext) -> str | None:
    models = context.models
    if name is None or name in {models.generate_model, models.code_model}:
        return name or models.generate_model
    known = ", ".join(filter(None, (models.generate_model, models.code_model))) or "none"
    raise InvalidInputError("model", name, f"generates no text here; what does: {known}")


KIND = Generate()
