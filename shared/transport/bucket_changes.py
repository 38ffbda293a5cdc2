"""Read what changed in a bucket since the last read, so that a reader of many keys only reads those."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.transport.stream_reader import MAX_AT_ONCE, ReadingError, StreamReader

CHECK_INTERVAL_S = 60.0
MAX_READS = 200


@dataclass
class BucketChanges:
    """One bucket with one value per key, for a reader that polls it.

    After the server lost the consumer, or the bucket was recreated, everything is read again: the caller sees only
    differences.
    """

    js: JetStreamContext
    bucket: str
    _reader: StreamReader | None = None
    _keys: set[str] = field(default_factory=set)  # with a value or a deletion marker
    _checked_s: float = 0.0

    async def changes(self) -> dict[str, bytes | None]:
        """Return changed keys with their new bytes; None for deleted ones. The first call returns everything.

        Raises UnavailableError where the bucket does not exist or cannot be read.
        """
        try:
            if self._reader is not None and await self._lost_some():
                await self.forget()
            if self._reader is None:
                return await self._all()
            return await self._more(self._reader)
        except NotFoundError as error:
            await self.forget()
            raise UnavailableError(f"bucket {self.bucket} does not exist") from error
        except (ReadingError, nats.errors.Error, OSError) as error:
            await self.forget()
            raise UnavailableError(f"bucket {self.bucket} could not be read: {type(error).__name__}") from error

    async def forget(self) -> None:
        """Read everything again at the next call."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await reader.close()

    async def _all(self) -> dict[str, bytes | None]:
        config = ConsumerConfig(filter_subject=f"{self._prefix}>", deliver_policy=DeliverPolicy.LAST_PER_SUBJECT)
        reader = StreamReader(self.js, f"KV_{self.bucket}", config)
        await reader.open()
        before, self._keys = self._keys, set()
        try:
            found = await self._more(reader)
        except BaseException:
            # The known keys are kept, so that those deleted by the next attempt are reported then.
            self._keys |= before
            await reader.close()
            raise
        self._reader, self._checked_s = reader, time.monotonic()
        return dict.fromkeys(before - self._keys, None) | found

    async def _more(self, reader: StreamReader) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        # Bounded, so that a bucket that is written faster than it is read blocks nobody.
        for _ in range(MAX_READS):
            messages = await reader.read(MAX_AT_ONCE)
            for message in messages:
                key = message.subject[len(self._prefix) :]
                self._keys.add(key)
                found[key] = None if message.removed else message.data
            if not messages or not reader.pending:
                break
        return found

    async def _lost_some(self) -> bool:
        """Whether messages were removed from the stream without a marker: manually, or with the stream itself."""
        if time.monotonic() - self._checked_s < CHECK_INTERVAL_S:
            return False
        self._checked_s = time.monotonic()
        state = (await self.js.stream_info(f"KV_{self.bucket}")).state
        return state.messages < len(self._keys)

    @property
    def _prefix(self) -> str:
        return f"$KV.{self.bucket}."
