"""The OpenAI-compatible API: chat, completions, embeddings and models, with errors in OpenAI's format.

https://platform.openai.com/docs/api-reference. Unsupported parameters are rejected with an error that names them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from nats.errors import Error as NatsError
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse

from accelerator_autopilot.client.jobs import output_of
from accelerator_autopilot.contracts.errors import AutopilotError, InvalidInputError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.jobs import JobProgress, JobResult
from accelerator_autopilot.gateway.application.job_submission import CallerSubmission, Submit
from accelerator_autopilot.gateway.dependencies import Autopilot
from accelerator_autopilot.gateway.http.path_parameters import Id
from accelerator_autopilot.gateway.http.problem_details import detail_of, retry_after, status_of
from accelerator_autopilot.gateway.security.roles import Viewer
from accelerator_autopilot.gateway.security.route_access import GuardedRoute

WAIT_S = 600.0
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def openai_error(status: int, message: str, param: str | None = None) -> JSONResponse:
    """Return an error in OpenAI's format."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = {"error": {"message": message, "type": kind, "param": param, "code": None}}
    return JSONResponse(body, status_code=status)


def _answer(error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return openai_error(400, first["msg"], ".".join(str(p) for p in first["loc"][1:]))
    if isinstance(error, HTTPException):
        return openai_error(400 if error.status_code == 422 else error.status_code, str(error.detail))
    if isinstance(error, TimeoutError) and not isinstance(error, NatsError):
        return openai_error(504, f"no result within {WAIT_S:.0f} s")
    status = status_of(error)
    response = openai_error(400 if status == 422 else status, detail_of(error), getattr(error, "field", None))
    return retry_after(error, response)


class OpenAIRoute(GuardedRoute):
    """Returns every error in OpenAI's format."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the guarded handler."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except (AutopilotError, TimeoutError, NatsError, RequestValidationError, HTTPException) as error:
                return _answer(error)

        return guarded

    @staticmethod
    def refusal(status: int, detail: str) -> Response:
        """Return the response to a caller without access."""
        return openai_error(status, detail)


router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAIRoute)


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: str = Field(min_length=1, max_length=500)
    user: str | None = None


class _Sampling(_Request):
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    n: int = Field(default=1, ge=1, le=1, description="only one answer per request is supported")
    logprobs: Literal[False] | None = None

    def sampling(self, limit: int | None = None) -> dict[str, Any]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        tokens = limit or self.max_tokens
        chosen = {"model": self.model, "temperature": self.temperature, "top_p": self.top_p, "stop": stop}
        return chosen | ({"max_tokens": tokens} if tokens else {})

    @property
    def tells_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))


class _Turn(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]

    def plain(self) -> dict[str, str]:
        content = self.content
        if isinstance(content, list):
            if any(part.get("type") != "text" for part in content):
                raise InvalidInputError("messages.content", "part", "only parts of type text are supported")
            content = "".join(str(part.get("text", "")) for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(_Sampling):
    """A conversation to continue."""

    messages: list[_Turn] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: list[Any] | None = Field(default=None, max_length=0, description="tools are not supported")


class CompletionRequest(_Sampling):
    """A prompt to continue."""

    prompt: str = Field(min_length=1)
    echo: bool = False


class EmbeddingRequest(_Request):
    """Texts to embed."""

    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = Field(default=None, description="not supported: vectors have the model's own length")


@router.get("/models", dependencies=[Viewer])
async def models(autopilot: Autopilot) -> dict[str, Any]:
    """List the models that the fleet's pools offer."""
    return {"object": "list", "data": [_model(name) for name in await _offered(autopilot)]}


@router.get("/models/{name:path}", dependencies=[Viewer])
async def model(name: Id, autopilot: Autopilot) -> dict[str, Any]:
    """Read a model. Returns 404 if no pool offers it."""
    if name not in await _offered(autopilot):
        raise HTTPException(404, f"the model {name!r} does not exist: list models with GET /v1/models")
    return _model(name)


@router.post("/chat/completions")
async def chat(body: ChatRequest, to_queue: Submit) -> Any:
    """Generate the next message of a conversation."""
    limit = body.max_completion_tokens or body.max_tokens
    payload = {"messages": [turn.plain() for turn in body.messages], **body.sampling(limit)}
    return await _generate("chat", "chat.completion", payload, body, to_queue)


@router.post("/completions")
async def completions(body: CompletionRequest, to_queue: Submit) -> Any:
    """Continue a prompt."""
    payload = {"prompt": body.prompt, **body.sampling(body.max_tokens or 16)}
    return await _generate("generate", "text_completion", payload, body, to_queue)


@router.post("/embeddings")
async def embeddings(body: EmbeddingRequest, to_queue: Submit) -> dict[str, Any]:
    """Compute one vector per text."""
    await _check_model(to_queue, body.model)
    texts = [body.input] if isinstance(body.input, str) else body.input
    handle = await to_queue.job("embed", {"texts": texts, "model": body.model}, {"needs": {"model": body.model}})
    result = await _result_of(to_queue, handle.id)
    vectors = output_of(result)["vectors"]
    tokens = (result.usage.prompt_tokens if result.usage else None) or 0
    return {
        "object": "list",
        "model": body.model,
        "data": [
            {"object": "embedding", "index": i, "embedding": _encoded(v, body.encoding_format)}
            for i, v in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def _generate(kind: str, form: str, payload: dict[str, Any], body: _Sampling, to_queue: CallerSubmission) -> Any:
    await _check_model(to_queue, body.model)
    options = {"needs": {"model": body.model}}
    job_id, created = new_id(), int(time.time())  # noqa: TID251  the API's own field
    head = {"id": job_id, "object": form, "created": created, "model": body.model}
    if body.stream:
        await to_queue.admit(1)
        return EventSourceResponse(_stream(kind, head, payload, options, body, to_queue), sep="\n")
    handle = await to_queue.job(kind, payload, options, job_id=job_id)
    output = output_of(await _result_of(to_queue, handle.id))
    text = {"text": output["text"]} if kind == "generate" else {"message": _assistant(output["text"])}
    choice = {"index": 0, "finish_reason": output["finish_reason"], "logprobs": None} | text
    return head | {"choices": [choice], "usage": _usage(output)}


async def _stream(
    kind: str,
    head: dict[str, Any],
    payload: dict[str, Any],
    options: dict[str, Any],
    body: _Sampling,
    to_queue: CallerSubmission,
) -> AsyncIterator[dict[str, str]]:
    form = head["object"] if kind == "generate" else "chat.completion.chunk"
    sent, output = 0, None
    wanted = to_queue.admission.priority(to_queue.caller.user, "normal")
    source = to_queue.autopilot.jobs.stream(
        kind, payload, job_id=head["id"], submitter=to_queue.caller.user, priority=wanted, fresh=True, **options
    )
    to_queue.count([head["id"]])

    def chunk(text: str | None, reason: str | None = None) -> dict[str, str]:
        part = {"text": text or ""} if kind == "generate" else {"delta": _assistant(text) if text is not None else {}}
        choice = {"index": 0, "finish_reason": reason, "logprobs": None} | part
        return {"data": json.dumps(head | {"object": form, "choices": [choice]})}

    try:
        async for event in source:
            if isinstance(event, JobProgress):
                piece = event.partial if isinstance(event.partial, dict) else {}
                # Pieces that were lost on the way are filled in from the result.
                if piece.get("offset") == sent and piece.get("text"):
                    sent += len(piece["text"])
                    yield chunk(piece["text"])
            else:
                output = output_of(event)
    except (AutopilotError, NatsError) as error:
        to_queue.forget([head["id"]])
        failure = openai_error(status_of(error), detail_of(error))
        yield {"data": bytes(failure.body).decode()}
    except (asyncio.CancelledError, GeneratorExit):
        await asyncio.shield(asyncio.ensure_future(_abandon(to_queue, head["id"])))
        raise
    if output is not None:
        if output["text"][sent:]:
            yield chunk(output["text"][sent:])
        yield chunk(None, output["finish_reason"])
        if body.tells_usage:
            yield {"data": json.dumps(head | {"object": form, "choices": [], "usage": _usage(output)})}
    yield {"data": "[DONE]"}


async def _abandon(to_queue: CallerSubmission, job_id: str) -> None:
    """Cancel the job: nobody reads its output any more."""
    try:
        await to_queue.autopilot.jobs.cancel(job_id)
    except (AutopilotError, NatsError):
        return


async def _result_of(to_queue: CallerSubmission, job_id: str) -> JobResult:
    try:
        return await to_queue.autopilot.jobs.wait(job_id, WAIT_S)
    except (TimeoutError, asyncio.CancelledError):
        await asyncio.shield(asyncio.ensure_future(_abandon(to_queue, job_id)))
        raise


async def _check_model(to_queue: CallerSubmission, name: str) -> None:
    offered = await _offered(to_queue.autopilot)
    if name not in offered:
        raise HTTPException(404, f"the model {name!r} does not exist; available: {', '.join(offered) or 'none'}")


async def _offered(autopilot: Autopilot) -> list[str]:
    return sorted({name for pool in await autopilot.fleet.pools() for name in pool.models})


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "autopilot"}


def _assistant(text: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _usage(output: dict[str, Any]) -> dict[str, int]:
    prompt, completion = output["prompt_tokens"], output["completion_tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _encoded(vector: list[float], form: str) -> list[float] | str:
    return vector if form == "float" else base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
