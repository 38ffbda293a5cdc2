"""How much model-based tests try: the same short list each time, or many random ones where somebody asks for them."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = "AUTOPILOT_STATEFUL_EXAMPLES"


def stateful_settings(examples: int, steps: int) -> settings:
    """`examples` runs of `steps` steps, always the same; AUTOPILOT_STATEFUL_EXAMPLES=5000 tries that many others."""
    asked = os.environ.get(EXAMPLES)
    return settings(
        max_examples=int(asked) if asked else examples,
        stateful_step_count=2 * steps if asked else steps,
        derandomize=not asked,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
