"""A causal model through transformers' continuous batching: requests join and leave a running batch at any token."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.inference.adapters.torch_loading import TRUSTED, load_model, loading, place
from accelerator_autopilot.inference.errors import KindFailedError
from accelerator_autopilot.inference.ports import FinishReason, Generated, GenerationRequest
from accelerator_autopilot.inference.settings import ModelSettings

DEFAULT_CONTEXT = 2048
PAGE_TOKENS = 64
STEP_TOKENS = 512
# When the process ends, it does not wait longer than this for the running step of decoding.
END_S = 3.0
# Trailing tokens whose text later ones may still change; text is emitted once they are past.
UNSURE = "\N{REPLACEMENT CHARACTER}"


@dataclass
class _Stream:
    """One request while it is generated."""

    request: GenerationRequest
    on_text: Callable[[str], None]
    cancelled: Callable[[], bool]
    prompt_tokens: int
    future: Future[Generated] = field(default_factory=Future)
    emitted: int = 0


class TransformersGenerator:
    """One model with its own decoding loop in a thread."""

    def __init__(self, name: str, models: ModelSettings) -> None:
        self.name = name
        place(models)
        config: Any = load_model("generate_model", name, lambda: AutoConfig.from_pretrained(name, **TRUSTED))
        self._tokenizer: Any = load_model(
            "generate_model", name, lambda: AutoTokenizer.from_pretrained(name, **TRUSTED)
        )
        model: Any = load_model(
            "generate_model", name, lambda: AutoModelForCausalLM.from_pretrained(name, **loading(models)), models
        )
        context = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        self.context = int(context or DEFAULT_CONTEXT)
        self._vocabulary = int(config.vocab_size)
        self._numbers = itertools.count()
        pages = models.generate_slots * (self.context // PAGE_TOKENS + 1)
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                do_sample=True,
                max_new_tokens=self.context,
                eos_token_id=self._tokenizer.eos_token_id,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                # The library allocates what a request may ask for only where the default is not
                # neutral.
                top_p=0.9,
                top_k=50,
                temperature=0.7,
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE_TOKENS,
                # On a GPU the library sizes the cache to the free memory; elsewhere it cannot measure
                # it.
                num_blocks=None if models.torch_device.startswith("cuda") else pages,
                max_batch_tokens=None if models.torch_device.startswith("cuda") else STEP_TOKENS,
                max_requests_per_batch=models.generate_slots,
                per_request_processors=True,
            ),
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="generated", daemon=True).start()
        self._manager.start()
        threading.Thread(
            target=_end_with_process, args=[weakref.ref(self._manager)], name="generation end", daemon=True
        ).start()

    @property
    def ended(self) -> bool:
        """Whether decoding has ended for good, as after an error of the device: this model answers no more."""
        return not self._manager.is_running()

    def start(
        self, request: GenerationRequest, on_text: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Future[Generated]:
        """Start one generation; `on_text` gets each new piece.

        Raises InvalidInputError for a prompt longer than the context.
        """
        ids = self._ids(request)
        room = self.context - len(ids)
        if room < 1:
            raise InvalidInputError("prompt", f"{len(ids)} tokens", f"must be shorter than {self.context} tokens")
        if not ids:
            raise InvalidInputError("prompt", "", "must contain at least one token")
        stream = _Stream(request, on_text, cancelled, len(ids))
        name = f"r{next(self._numbers)}"
        asyncio.run_coroutine_threadsafe(self._begin(name, ids, stream, min(request.max_tokens, room)), self._loop)
        return stream.future

    async def _begin(self, name: str, ids: list[int], stream: _Stream, max_tokens: int) -> None:
        request = stream.request
        try:
            self._manager.register_result_handler(name, lambda output: self._on_output(name, stream, output))
            self._manager.add_request(
                ids,
                request_id=name,
                max_new_tokens=max_tokens,
                streaming=True,
                # top_k = 1 picks the likeliest token, whatever the temperature.
                top_k=1 if request.temperature == 0 else self._vocabulary,
                temperature=request.temperature or 1.0,
                top_p=request.top_p,
            )
        except Exception as error:  # noqa: BLE001  whatever the library raised belongs to this request
            stream.future.set_exception(error)
            return
        if self.ended and not stream.future.done():
            stream.future.set_exception(_aborted())

    def _on_output(self, name: str, stream: _Stream, output: Any) -> None:
        if stream.future.done():
            return
        if output.error:
            # The error's text may quote the prompt.
            stream.future.set_exception(_aborted())
            return
        tokens = [t for t in output.generated_tokens if t != self._tokenizer.eos_token_id]
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        cut = min((at for s in stream.request.stop if (at := text.find(s)) >= 0), default=None)
        ended = output.is_finished()
        if cut is not None:
            text, ended = text[:cut], True
        held_back = 0 if ended else max((len(s) - 1 for s in stream.request.stop), default=0)
        sure = text.rstrip(UNSURE) if not ended else text
        upto = max(stream.emitted, len(sure) - held_back)
        if upto > stream.emitted:
            stream.on_text(sure[stream.emitted : upto])
            stream.emitted = upto
        stopped = stream.cancelled()
        if not ended and not stopped:
            return
        if not output.is_finished():
            self._manager.cancel_request(name)
        natural = cut is not None or len(tokens) < len(output.generated_tokens)
        reason: FinishReason = "cancelled" if stopped and not ended else "stop" if natural else "length"
        stream.future.set_result(Generated(text, stream.prompt_tokens, len(output.generated_tokens), reason))

    def _ids(self, request: GenerationRequest) -> list[int]:
        if isinstance(request.prompt, str):
            return list(self._tokenizer(request.prompt)["input_ids"])
        turns = [{"role": m.role, "content": m.content} for m in request.prompt]
        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        plain = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        return list(self._tokenizer(f"{plain}\nassistant:")["input_ids"])


def _aborted() -> KindFailedError:
    return KindFailedError("generation", "GenerationError", "the library aborted the generation", of_device=True)


def _end_with_process(manager: weakref.ref[Any]) -> None:
    """Stop decoding once the main thread has ended; otherwise the library's thread keeps the process alive forever."""
    threading.main_thread().join()
    running = manager()
    if running is not None:
        running.stop(hard_stop=True, timeout=END_S)
