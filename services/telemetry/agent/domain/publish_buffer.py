"""Messages that wait for the broker, thinned as they accumulate: a long outage costs resolution, not history. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Outgoing(NamedTuple):
    """One message to be published."""

    subject: str
    body: bytes
    message_id: str
    is_event: bool = False


@dataclass
class FrameBuffer:
    """At most `limit` messages, oldest first.

    When it is full, every second frame of the older half is dropped; events are dropped only when the buffer holds
    nothing else.
    """

    limit: int
    dropped: int = 0
    _items: list[Outgoing] = field(default_factory=list)

    def append(self, item: Outgoing) -> None:
        """Add at the end."""
        if len(self._items) >= self.limit:
            self._thin()
        self._items.append(item)

    def _thin(self) -> None:
        half = max(1, len(self._items) // 2)
        kept: list[Outgoing] = []
        frames = 0
        for item in self._items[:half]:
            frames += not item.is_event
            if item.is_event or frames % 2 == 0:
                kept.append(item)
        if len(kept) == half:
            kept = kept[1:]
        self.dropped += half - len(kept)
        self._items[:half] = kept

    def heads(self, most: int) -> list[Outgoing]:
        """Return the oldest messages that may be sent together: one per subject, to keep each subject's order."""
        found: dict[str, Outgoing] = {}
        for item in self._items[:most]:
            if item.subject in found:
                break
            found[item.subject] = item
        return list(found.values())

    def remove(self, item: Outgoing) -> None:
        """Remove a message, unless thinning removed it already."""
        for place, kept in enumerate(self._items):
            if kept is item:
                del self._items[place]
                return

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Outgoing]:
        return iter(self._items)
