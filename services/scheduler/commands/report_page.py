"""A report on energy and service as one HTML file.

`python -m accelerator_autopilot.scheduler.commands.report_page --help`
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.exit_codes import exit_code
from accelerator_autopilot.contracts.messages.commands import FleetPolicy
from accelerator_autopilot.scheduler.commands.advisor import advise
from accelerator_autopilot.scheduler.commands.whatif import add_span, past_of
from accelerator_autopilot.scheduler.domain.fleet_history import FleetHistory
from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles
from accelerator_autopilot.scheduler.twin.calibration import in_blocks

HOUR_S = 3600.0
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{border-bottom:1px solid #ddd;padding:.3rem .8rem;text-align:left}"
    "img{max-width:100%}code{font-size:.85em;color:#555}"
)


def page(past: FleetHistory, policy: FleetPolicy) -> str:
    """Return the whole report, with the recorder's configured price and carbon intensity per kWh."""
    kwh = past.energy_by_hour_j / 3.6e6
    money, co2_g = (float(kwh.sum()) * past.factors.get(n, 0.0) for n in ("price_per_kwh", "co2_g_per_kwh"))
    jobs = past.jobs
    wait_s = jobs.started_s - jobs.submitted_s
    slack_s = np.array([policy.pool(p).target_wait_s for p in jobs.pool])
    figures = {
        "Energy": f"{kwh.sum():.3f} kWh, {money:.2f} in money, {co2_g:.0f} g CO2",
        "Jobs": f"{jobs.in_all}" + (f", the last {len(wait_s)} analysed" if jobs.in_all > len(wait_s) else ""),
        "In time": f"{float((wait_s <= slack_s).mean()):.2%} started within the wait that the policy allows"
        if len(wait_s)
        else "no jobs",
        "Wait": f"p50 {np.quantile(wait_s, 0.5):.2f} s, p99 {np.quantile(wait_s, 0.99):.2f} s" if len(wait_s) else "-",
        "Devices": f"{max(past.devices_in_all, len(past.devices))}, {len(past.devices)} of them looked at, "
        f"mean use {_mean_use(past):.1f} %",
    }
    rows = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in figures.items())
    hours = np.arange(len(kwh))
    arrivals = in_blocks(jobs.submitted_s, np.ones(len(wait_s)), past.length_s, HOUR_S)
    pictures = _picture("kWh per hour", hours, kwh) + _picture("jobs per hour", np.arange(len(arrivals)), arrivals)
    advice = "".join(
        f"<li><b>{html.escape(a.scope)}</b>: {html.escape(a.action)}; saves {a.saving:.3g} {html.escape(a.unit)} "
        f"({a.low:.3g} to {a.high:.3g}): {html.escape(a.why)}<br><code>{html.escape(a.command)}</code></li>"
        for a in advise(past, policy)
    )
    span = f"{past.since:%Y-%m-%d %H:%M} to {past.until:%Y-%m-%d %H:%M} UTC"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Energy and service, {span}</title>"
        f"<style>{STYLE}</style><h1>Energy and service</h1><p>{span}</p><table>{rows}</table>{pictures}"
        f"<h2>What would save</h2><ul>{advice or '<li>nothing worth changing was found</li>'}</ul></html>\n"
    )


def _mean_use(past: FleetHistory) -> float:
    used = np.concatenate([d.util_pct for d in past.devices] or [np.zeros(1)])
    return float(np.nanmean(used)) if np.isfinite(used).any() else 0.0


def _picture(title: str, x: Doubles | np.ndarray[tuple[int], np.dtype[np.int64]], y: Doubles) -> str:
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(x, y, width=0.9)
    axes.set_title(title)
    axes.set_xlabel("hour of the span")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return f'<p><img alt="{title}" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"></p>'


def main() -> None:
    """Read the span and write the file."""
    ask = argparse.ArgumentParser(prog="report", description=__doc__)
    add_span(ask)
    ask.add_argument("--out", type=Path, default=Path("report.html"))
    ask.add_argument("--fleet-policy", type=FleetPolicy.model_validate_json, default=FleetPolicy(), help="as JSON")
    a = ask.parse_args()
    try:
        past = past_of(a, timedelta(days=7))
        a.out.write_text(page(past, a.fleet_policy), encoding="utf-8")
    except AutopilotError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(exit_code(error))
    except OSError as error:
        sys.exit(f"error: {a.out}: {error.strerror}")
    sys.stdout.write(f"{a.out}\n")


if __name__ == "__main__":
    main()
