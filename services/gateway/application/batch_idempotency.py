"""Recognise batches that are resent after a lost response, by content if there is no Idempotency-Key.

The same batch from the same user is a retry as long as the first has not been answered: its client disconnected or
timed out, the response was an error, or a gateway died. Once it was answered, the same content is a new batch.
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
    """Maps a batch in progress to its id. The store is shared by all gateways."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def id_of(self, digest: str) -> tuple[str, bool]:
        """Return the id of a batch with this content, and whether it is new. Raises UnavailableError."""
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
        """Forget a batch that was answered or never stored.

        If the store is unreachable, the claim expires by itself.
        """
        with suppress(*BUS_ERRORS):
            await (await self._js.key_value(BUCKET)).purge(_key(digest), msg_ttl=60)


def _key(digest: str) -> str:
    # Job ids contain no slash, so none can collide with this.
    return f"batch/{digest}"
