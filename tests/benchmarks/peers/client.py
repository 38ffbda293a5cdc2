"""One peer's client: imports the named module beside this file, measures, prints one line of JSON."""

import importlib
import json
import sys
import time

name, jobs, singles = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
module = importlib.import_module(name)
rate, latencies = module.measure(jobs, singles, "x" * 900, time.perf_counter)
latencies = sorted(latencies[len(latencies) // 10 :])
print(
    json.dumps(
        {
            "jobs_per_s": round(rate, 1),
            "p50_ms": round(1e3 * latencies[len(latencies) // 2], 3),
            "p99_ms": round(1e3 * latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))], 3),
        }
    )
)
