"""A soak of the whole product: load, simulated devices, caps, alerts, and faults of every process and link.

`python -m tests.chaos.soak --minutes 30` is the long form, `tests/chaos/test_soak.py` the short one.
"""
