"""Recognises batches that are sent again after a lost response, by their content if there is no Idempotency-Key.

The same batch of the same user is the first one again for as long as that has not been answered: its client went away
or lost its patience, an answer was an error, a gateway died. Once it was answered, the same content is a new batch.
"""

from __future__ import annotations

from contextlib import suppress

from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.transport.job_id_claims import BUCKET
from accelerator_autopilot.transport.result_publishing import BUS_ERRORS, not_stored

KEPT_S = 600.0


class BatchDeduplicator:
    """Which id a batch has that is under way. The store is that of all gateways."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def id_of(self, digest: str) -> tuple[str, bool]:
        """The batch of this content, and whether it is a new one. Raises UnavailableError."""
        try:
            kv = await self._js.key_value(BUCKET)
            while True:
                batch_id = new_id()
                try:
                    await kv.create(_key(digest), batch_id.encode(), msg_ttl=KEPT_S)
                except KeyWrongLastSequenceError:
                    with suppress(KeyNotFoundError):
                        return ((await kv.get(_key(digest))).value or b"").decode(), False
                else:
                    return batch_id, True
        except BUS_ERRORS as error:
            raise not_stored("the claim of a batch", error) from error

    async def forget(self, digest: str) -> None:
        """The batch was answered, or never came to be; where that cannot be said now, it is forgotten by itself."""
        with suppress(*BUS_ERRORS):
            await (await self._js.key_value(BUCKET)).purge(_key(digest), msg_ttl=60)


def _key(digest: str) -> str:
    # No id of a job has a slash, so none can be mistaken for this.
    return f"batch/{digest}"
