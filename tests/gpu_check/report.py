"""One page for people of what was measured."""

from __future__ import annotations

from typing import Any


def page(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    machine, sections = result["machine"], result["sections"]
    lines = ["# GPU check", ""]
    smi = machine.get("nvidia_smi") or {}
    lines += [
        f"{smi.get('name', 'recorded driver')}, driver {smi.get('driver_version', '-')}, Python {machine['python']}, "
        f"torch {machine['packages']['torch']}, {machine['cores']} cores, took {result['took_s']:.0f} s"
        + (" (a rehearsal: no figure here is a GPU's)" if result["rehearsal"] else ""),
        "",
        "| part | result | seconds |", "| --- | --- | --- |",
    ]  # fmt: skip
    lines += [
        f"| {name} | {(section.get('error') or 'ok').splitlines()[0]} | {section.get('took_s', 0):.1f} |"
        for name, section in sections.items()
    ]
    for name, write in (
        ("nvml", _nvml), ("rest", _rest), ("load", _load), ("agents", _agents), ("kinds", _kinds),
        ("two_workers", _workers), ("out_of_memory", _memory), ("database", _database),
    ):  # fmt: skip
        found = sections.get(name)
        if found and "error" not in found:
            lines += ["", *write(found)]
    return "\n".join(lines) + "\n"


def number(value: Any, digits: int = 4) -> str:
    """A figure as it stands in a table."""
    return f"{value:.{digits}g}" if isinstance(value, int | float) else "-" if value is None else str(value)


def _nvml(found: dict[str, Any]) -> list[str]:
    lines = [
        "## NVML",
        "",
        (
            f"One sample of all readings at 10 Hz: p50 {number(found['source']['sample_ms_p50'])} ms, worst "
            f"{number(found['source']['sample_ms_max'])} ms; discovery {number(found['source']['discover_ms'])} ms; "
            f"{len(found['sample'])} metrics; not supported: {', '.join(found['unsupported']) or 'none'}; "
            f"event types {found['supported_events']:#x}, listening: {found['listening']}."
        ),
        "",
        "| reading | rate | answer | us p50 | us max |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    return lines + [
        f"| {r['reading']} | {r['rate']} | {_short(r['answer'])} | {r['us']:.0f} | {r['us_max']:.0f} |"
        for r in found["readings"]
    ]


def _short(answer: dict[str, Any]) -> str:
    return ", ".join(f"{k} {number(v, 6)}" for k, v in answer.items()).replace("|", "/")


def _rest(found: dict[str, Any]) -> list[str]:
    rows = [
        f"| {state} | {number(f.get('mean_w'))} | {number(f.get('least_w'))} to {number(f.get('most_w'))} | "
        f"{number(f.get('counter_mean_w'))} |"
        for state, f in (("no context", found["bare"]), ("a context that does nothing", found["with_context"]))
    ]
    return ["## Watts at rest", "", "| state | mean W | range | by the counter |", "| --- | --- | --- | --- |", *rows]


def _load(found: dict[str, Any]) -> list[str]:
    return [
        "## Energy under bursts of load",
        "",
        (
            f"Mean {number(found.get('mean_w'))} W ({number(found.get('least_w'))} to {number(found.get('most_w'))}), "
            f"counter {number(found.get('counter_j'))} J. Over the counter: the agent's integral "
            f"{number(found.get('integral_over_counter'))}, samples at 10 Hz "
            f"{number(found.get('samples_over_counter'))}, at 1 Hz {number(found.get('samples_at_1_hz_over_counter'))}."
        ),
    ]


def _agents(found: dict[str, Any]) -> list[str]:
    rows = [
        f"| {name} | {number(a['core_pct'])} | {number(a['rss_mb'])} | {a['frames']} of {a['expected_frames']} | "
        f"{number(a['drift_ms'])} | {number(a['latest_ms'])} |"
        for name, a in found.items()
        if isinstance(a, dict)
    ]
    return ["## The agent", "", "| agent | % of a core | MB | frames | drift ms | latest ms |",
            "| --- | --- | --- | --- | --- | --- |", *rows]  # fmt: skip


def _kinds(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Kinds on the card, beside the bare model", "",
        "| kind | product/s | bare best/s | ratio | J an output | bare J | succeeded | largest batch |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for kind, f in found.items():
        if isinstance(f, dict) and "product" in f:
            p, b = f["product"], f["bare"]
            lines.append(
                f"| {kind} | {number(p['per_s'])} | {number(b.get('best_per_s'))} | {number(f['ratio'], 3)} | "
                f"{number(p['joules'])} | {number(b.get('joules'))} | {p['succeeded']} of {p['jobs']} | "
                f"{p['batch_most']} |"
            )
        elif isinstance(f, dict):
            lines.append(f"| {kind} | {f.get('error', '')} | | | | | | |")
    return lines


def _workers(found: dict[str, Any]) -> list[str]:
    return [
        "## Two workers on one card",
        "",
        (
            f"{number(found['one']['per_s'])}/s with one, {number(found['two']['per_s'])}/s with two "
            f"({number(found['times'], 3)} times, {found['two']['workers']} workers took part)."
        ),
    ]


def _memory(found: dict[str, Any]) -> list[str]:
    outcome = found["outcome"]
    return [
        "## All memory taken by somebody else",
        "",
        (
            f"Held for {number(found['held_s'])} s: {outcome['succeeded']} of {outcome['jobs']} jobs succeeded, "
            f"{outcome['retried']} after a new attempt, in {number(outcome['took_s'])} s; told out of memory "
            f"{found['out_of_memory_told']} times; set aside: {found['set_aside'] or 'none'}; "
            f"restarts {found['restarts']}."
        ),
    ]


def _database(found: dict[str, Any]) -> list[str]:
    return ["## Database", "", ", ".join(f"{k}: {v}" for k, v in found.items() if k != "took_s")]
