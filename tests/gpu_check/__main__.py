"""`make gpu-check`: everything that needs a real card, in minutes. It sets nothing on the card."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.gpu_check.children import ROOT
from tests.gpu_check.machine import facts
from tests.gpu_check.report import page

Section = Callable[[], Awaitable[dict[str, Any]]]


class Check:
    """Parts that run one after the other; one that fails costs no other."""

    def __init__(self, out: Path, recording: Path | None, scale: float, only: frozenset[str]) -> None:
        self.out, self.recording, self.scale, self.only = out, recording, scale, only
        self.device = "cpu" if recording else "cuda"
        self.began = time.monotonic()
        self.result: dict[str, Any] = {
            "machine": facts(), "rehearsal": recording is not None, "sections": {}, "took_s": 0.0,
        }  # fmt: skip

    async def part(self, name: str, work: Section, limit_s: float) -> None:
        """Run one part, keep what it found, and write everything so far."""
        if self.only and name.split(maxsplit=1)[0] not in self.only:
            return
        began = time.monotonic()
        try:
            found = await asyncio.wait_for(work(), limit_s)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-3000:]}
        found["took_s"] = time.monotonic() - began
        self.result["sections"][name] = found
        self.result["took_s"] = time.monotonic() - self.began
        (self.out / "gpu-check.json").write_text(json.dumps(self.result, indent=1, default=str))
        (self.out / "gpu-check.md").write_text(page(self.result))
        print(f"{name}: {found.get('error', 'ok')} ({found['took_s']:.1f} s)", flush=True)

    def module(self, name: str, *arguments: str) -> list[str]:
        """The command of a module that reads NVML, on the recorded driver in a rehearsal."""
        if self.recording is None:
            return [sys.executable, "-m", name, *arguments]
        return [sys.executable, "-m", "tests.gpu_check.nvml_playback", str(self.recording), name, *arguments]

    async def nvml(self) -> dict[str, Any]:
        """Every reading, its time, and the recording for the tests."""
        process = await asyncio.create_subprocess_exec(
            *self.module("tests.gpu_check.nvml_scan", str(self.out / "nvml-recording.json")),
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"the scan ended with {process.returncode}: {err.decode(errors='replace')[-1500:]}")
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    async def run(self) -> None:
        """All parts."""
        if self.recording is not None:
            from tests.gpu_check.nvml_playback import Playback

            Playback(self.recording).install()
        from tests.gpu_check import agents, models, power, stack, workload

        await self.part("nvml", self.nvml, 60)
        await self.part("rest", lambda: asyncio.to_thread(power.at_rest, self.device, 8 * self.scale), 60)
        folder = Path(tempfile.mkdtemp(prefix="gpu-check-"))
        folder.chmod(0o755)
        settings = models.save_all(folder / "models", models.TINY if self.recording else models.REAL)
        async with stack.running_stack(folder, recording=self.recording) as running:

            async def under_load() -> dict[str, Any]:
                load = asyncio.create_task(asyncio.to_thread(power.under_load, self.device, 60 * self.scale))
                try:
                    self.result["sections"]["agents"] = await agents.cost(running, 25 * self.scale)
                finally:
                    found = await load
                return found

            await self.part("load", under_load, 120)
            await self.part("pool", lambda: self.start_pool(running, settings), 90)
            counts = {"embed": 4000, "classify": 2000, "classify-image": 100, "generate": 400}
            kinds: dict[str, Any] = {}
            for kind, count in counts.items():
                count_ = max(8, int(count * self.scale))

                async def measure(kind: str = kind, count: int = count_) -> dict[str, Any]:
                    return await workload.beside_bare(running, kind, settings, count, self.device, 5 * self.scale)

                await self.part(f"kind {kind}", measure, 60)
                kinds[kind] = self.result["sections"].get(f"kind {kind}", {})
            self.result["sections"]["kinds"] = kinds
            two = max(16, int(4000 * self.scale))
            await self.part("two_workers", lambda: workload.two_workers(running, "embed", two, self.device), 120)
            jobs = max(4, int(40 * self.scale))
            await self.part(
                "out_of_memory", lambda: workload.out_of_memory(running, jobs, self.device, 8 * self.scale), 120
            )
            await self.part("database", lambda: stack.recorded_rows(running, 40), 90)
            for name in ("pool", "agent"):
                (self.out / f"{name}.log").write_text(running.tail(name, 400))

    async def start_pool(self, running: Any, settings: dict[str, str]) -> dict[str, Any]:
        """The agent that tells of the card, and one worker on it; simulated in a rehearsal."""
        own = {"AUTOPILOT_NVML": "false", "AUTOPILOT_SIMULATE": "1"} if self.recording else {}
        await running.start("agent", ("accelerator_autopilot.telemetry", "agent"), **own)
        await running.start(
            "pool", ("accelerator_autopilot.inference", "pool"), **settings,
            AUTOPILOT_POOL_KINDS='["embed", "classify", "classify-image", "generate"]',
        )  # fmt: skip
        waited = await running.workers_ready(1, 80)
        pools = await running.client.fleet.pools()
        probe = await running.client.jobs.submit("embed", {"texts": ["word1"]})
        result = await probe.wait(60)
        if result.status != "succeeded":
            raise RuntimeError(f"embed: {result.errors[-1].message}; the pool: {running.tail('pool')}")
        return {"ready_after_s": waited, "worker": pools[0].workers[0].model_dump(mode="json")}


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"), help="folder of the JSON and the page")
    parser.add_argument("--rehearse", type=Path, metavar="RECORDING", help="no card: a recorded driver and tiny models")
    parser.add_argument("--only", default="", help="these parts, with commas; kinds is `kind`")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual times and counts")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    check = Check(
        arguments.out, arguments.rehearse, arguments.scale, frozenset(filter(None, arguments.only.split(",")))
    )
    asyncio.run(check.run())
    print(f"written: {arguments.out / 'gpu-check.json'} and gpu-check.md, in {check.result['took_s']:.0f} s")
    if any("error" in section for section in check.result["sections"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
