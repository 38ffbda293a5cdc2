"""generate: a prompt to a text, with a configured causal model; jobs join a running batch at any token."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.generate import Generate, GenerateResult, Sampling
from accelerator_autopilot.inference.kinds.base import RunContext, Tokens
from accelerator_autopilot.inference.model_loading import generator
from accelerator_autopilot.inference.ports import Generated, GenerationRequest


class GenerateKind:
    """One text a job."""

    name = "generate"
    input = Generate
    output = GenerateResult

    def start(self, item: Generate, context: RunContext) -> Future[BaseModel]:
        """Start one text."""
        return begin(item.prompt, item, context)


def begin(prompt: Any, item: Sampling, context: RunContext) -> Future[BaseModel]:
    """Start a generation and report its pieces; shared with `chat`."""
    model = generator(context.models, _chosen(item.model, context))
    emitted = 0
    ended: Future[BaseModel] = Future()

    def on_text(piece: str) -> None:
        nonlocal emitted
        context.partial(0, {"text": piece, "offset": emitted})
        emitted += len(piece)

    def on_end(work: Future[Generated]) -> None:
        try:
            done = work.result()
            context.tokens[0] = Tokens(done.prompt_tokens, done.completion_tokens)
            output = GenerateResult(
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
    raise InvalidInputError("model", name, f"is not a text generation model of this pool; use {known}")


KIND = GenerateKind()
