"""A process that uses the card: matrix products in bursts, a bare context, or all of the memory.

It says `ready` when it does, and ends with its standard input.
"""

from __future__ import annotations

import random
import sys
import threading
import time

import torch


def ended() -> threading.Event:
    """Set when whoever started this process closed its input."""
    event = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        event.set()

    threading.Thread(target=wait, daemon=True).start()
    return event


def bursts(device: str, over: threading.Event) -> None:
    """Work and rest in turns of 50 ms to 2 s, seeded: power that a slow sensor gets wrong."""
    turns = random.Random(1)
    size = 8192 if device == "cuda" else 256
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    print("ready", flush=True)
    while not over.is_set():
        until = time.monotonic() + turns.uniform(0.05, 2.0)
        while time.monotonic() < until and not over.is_set():
            a @ a
            if device == "cuda":
                torch.cuda.synchronize()
        over.wait(turns.uniform(0.05, 2.0))


def context(device: str, over: threading.Event) -> None:
    """Nothing but a context."""
    held = torch.zeros(1, device=device)
    print("ready", flush=True)
    over.wait()
    del held


def hog(device: str, over: threading.Event) -> None:
    """Take the memory that is free, in ever smaller pieces."""
    held = []
    size = 2**33 if device == "cuda" else 2**20
    while size >= 2**20 and len(held) < 4096 and device == "cuda":
        try:
            held.append(torch.empty(size, dtype=torch.uint8, device=device))
        except torch.OutOfMemoryError:
            size //= 2
    print("ready", flush=True)
    over.wait()


if __name__ == "__main__":
    {"bursts": bursts, "context": context, "hog": hog}[sys.argv[1]](sys.argv[2], ended())
