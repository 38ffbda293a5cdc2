"""A causal model through vLLM, where it is installed: paged attention, tensor parallel over the worker's devices."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.inference.errors import ModelLoadError, RetryableJobError
from accelerator_autopilot.inference.ports import FinishReason, Generated, GenerationRequest
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.model_cache import one_line


class VllmGenerator:
    """One asynchronous engine with its event loop in a thread."""

    def __init__(self, name: str, models: ModelSettings) -> None:
        from vllm import AsyncEngineArgs, AsyncLLMEngine  # noqa: PLC0415  optional

        self.name = name
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        arguments = AsyncEngineArgs(
            model=name,
            tensor_parallel_size=models.devices_per_worker,
            max_num_seqs=models.generate_slots,
            dtype=models.dtype,
            trust_remote_code=False,
            load_format="auto" if models.pickled_weights else "safetensors",
        )

        async def make() -> tuple[Any, Any]:
            engine = AsyncLLMEngine.from_engine_args(arguments)
            return engine, await engine.get_tokenizer()

        try:
            self._engine, self._tokenizer = asyncio.run_coroutine_threadsafe(make(), self._loop).result()
        except Exception as error:
            raise ModelLoadError(f"generate_model={name!r}: vLLM cannot load it: {one_line(error)}") from error
        self._context: int | None = getattr(getattr(self._engine, "model_config", None), "max_model_len", None)

    def start(
        self, request: GenerationRequest, on_text: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Future[Generated]:
        """Start one generation; `on_text` gets each new piece.

        Raises InvalidInputError for a prompt longer than the context.
        """
        work: Future[Generated] = asyncio.run_coroutine_threadsafe(
            self._generate(request, on_text, cancelled), self._loop
        )
        return work

    async def _generate(
        self, request: GenerationRequest, on_text: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Generated:
        from vllm import SamplingParams  # noqa: PLC0415  optional

        prompt = request.prompt
        if not isinstance(prompt, str):
            turns = [{"role": m.role, "content": m.content} for m in prompt]
            prompt = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        count = len(self._tokenizer(prompt)["input_ids"])
        if self._context is not None and count >= self._context:
            raise InvalidInputError("prompt", f"{count} tokens", f"must be shorter than {self._context} tokens")
        sampling = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            stop=list(request.stop),
        )
        name, emitted, last = f"r{next(self._numbers)}", 0, None
        async for last in self._engine.generate(prompt, sampling, name):
            text = last.outputs[0].text
            on_text(text[emitted:])
            emitted = len(text)
            if cancelled():
                await self._engine.abort(name)
                break
        if last is None:
            raise RetryableJobError("vLLM returned nothing for this prompt")
        output = last.outputs[0]
        reason: FinishReason = output.finish_reason if output.finish_reason in {"stop", "length"} else "cancelled"
        return Generated(output.text, len(last.prompt_token_ids or ()), len(output.token_ids), reason)
