"""A circuit breaker: after consecutive failures a receiver gets no deliveries for a while. Pure."""

from __future__ import annotations

from dataclasses import dataclass

THRESHOLD = 5
FIRST_PAUSE_S, MAX_PAUSE_S = 5.0, 300.0


@dataclass
class CircuitBreaker:
    """Closed while deliveries succeed; open for a pause that doubles; then a single trial."""

    failures: int = 0
    open_until_s: float = 0.0
    _pause_s: float = FIRST_PAUSE_S

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait before the next delivery."""
        return max(0.0, self.open_until_s - now_s)

    def succeeded(self) -> None:
        """Close the breaker."""
        self.failures, self.open_until_s, self._pause_s = 0, 0.0, FIRST_PAUSE_S

    def failed(self, now_s: float) -> bool:
        """Count a failure; True when this one opened the breaker."""
        self.failures += 1
        if self.failures < THRESHOLD:
            return False
        self.open_until_s = now_s + self._pause_s
        self._pause_s = min(MAX_PAUSE_S, self._pause_s * 2)
        return True
