"""The six dashboards, panel by panel."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from accelerator_autopilot.deploy.grafana.generator.panels import bars, by_interval, chart, choice, number, page, rows

_NODES = "node IN (${node:sqlstring})"
_DEVICE = "d.device = '${device}'"
_NODE = "d.node = '${node}'"
_NODE_URL = "/d/autopilot-node?var-node=${__value.raw}"
_DEVICE_URL = "/d/autopilot-device?var-device=${__value.raw}"
_GROUP = "$__timeGroup(ts, $__interval)"
_LATEST = "ts > now() - interval '5 minutes'"


def _fleet_line(expression: str) -> str:
    """Return the minutes of all selected nodes added up, then averaged over each point of the chart."""
    return (
        f"SELECT {_GROUP} AS time, avg(value) AS value FROM (SELECT ts, {expression} AS value FROM nodes_1m "
        f"WHERE {_NODES} AND $__timeFilter(ts) GROUP BY ts) minutes GROUP BY 1 ORDER BY 1"
    )


def _fleet_now(expression: str) -> str:
    return (
        f"SELECT {expression} FROM (SELECT DISTINCT ON (node) * FROM nodes_1m WHERE {_NODES} AND {_LATEST} "
        f"ORDER BY node, ts DESC) latest"
    )


def fleet() -> Dashboard:
    """Overview of the fleet."""
    return (
        page("fleet", "Autopilot: fleet")
        .with_variable(choice("node", "SELECT DISTINCT node FROM devices ORDER BY 1", multi=True))
        .with_panel(number("Devices reporting", _fleet_now("coalesce(sum(devices), 0)")))
        .with_panel(number("Power", _fleet_now("sum(power_w)"), "watt"))
        .with_panel(number("Utilisation", _fleet_now("sum(gpu_util_pct * devices) / sum(devices)"), "percent"))
        .with_panel(number("Hottest", _fleet_now("max(temp_max_c)"), "celsius"))
        .with_panel(number("Open alerts", f"SELECT count(*) FROM alerts WHERE state <> 'resolved' AND {_NODES}"))
        .with_panel(number("Jobs finished", "SELECT count(*) FROM jobs WHERE $__timeFilter(finished_at)"))
        .with_panel(
            chart(
                "Power and caps",
                f"SELECT {_GROUP} AS time, avg(power_w) AS power, avg(cap_w) AS caps FROM (SELECT ts, "
                f"sum(power_w) AS power_w, sum(power_cap_w) AS cap_w FROM nodes_1m WHERE {_NODES} AND "
                f"$__timeFilter(ts) GROUP BY ts) minutes GROUP BY 1 ORDER BY 1",
                "watt",
            )
        )
        .with_panel(chart("Utilisation", _fleet_line("sum(gpu_util_pct * devices) / sum(devices)"), "percent"))
        .with_panel(chart("Memory used", _fleet_line("sum(memory_used_bytes)"), "bytes"))
        .with_panel(chart("Hottest device", _fleet_line("max(temp_max_c)"), "celsius"))
        .with_panel(chart("Devices reporting", _fleet_line("sum(devices)"), "short"))
        .with_panel(chart("Devices slowed", _fleet_line("sum(throttled)"), "short"))
        .with_panel(
            rows(
                "Nodes",
                'SELECT node, devices, power_w AS "power (W)", gpu_util_pct AS "utilisation (%)", '
                'temp_max_c AS "hottest (°C)", throttled FROM (SELECT DISTINCT ON (node) * FROM nodes_1m '
                f"WHERE {_NODES} AND {_LATEST} ORDER BY node, ts DESC) latest ORDER BY power_w DESC NULLS LAST LIMIT 200",
                links={"node": _NODE_URL},
            )
        )
        .with_panel(
            rows(
                "Alerts",
                "SELECT opened_at AS time, severity, kind, node, device, summary, state FROM alerts "
                f"WHERE $__timeFilter(opened_at) AND {_NODES} ORDER BY opened_at DESC LIMIT 200",
                links={"device": _DEVICE_URL, "node": _NODE_URL},
            )
        )
        .with_panel(
            rows(
                "Decisions",
                "SELECT c.ts AS time, c.kind, c.target, c.issuer, c.reason, o.status, o.detail FROM commands c "
                "LEFT JOIN outcomes o ON o.command_id = c.id WHERE $__timeFilter(c.ts) ORDER BY c.ts DESC LIMIT 200",
                width=24,
            )
        )
    )


def node() -> Dashboard:
    """One node, its devices side by side."""
    lines = (
        ("Power", "power_w", "watt"),
        ("Utilisation", "gpu_util_pct", "percent"),
        ("Temperature", "temp_c", "celsius"),
        ("Memory used", "memory_used_bytes", "bytes"),
        ("SM clock (MHz)", "clock_sm_mhz", "none"),
        ("Time to read a device", "read_time_s", "s"),
    )
    made = (
        page("node", "Autopilot: node")
        .with_variable(choice("node", "SELECT DISTINCT node FROM devices ORDER BY 1", multi=False))
        .with_panel(
            rows(
                "Devices",
                'SELECT device, model, source, parent, driver, power_default_w AS "default cap (W)", simulated, '
                "last_seen FROM devices d WHERE " + _NODE + " ORDER BY device",
                width=24,
                links={"device": _DEVICE_URL},
            )
        )
    )
    for title, metric, unit in lines:
        made.with_panel(chart(title, by_interval(metric, _NODE), unit))
    return made.with_panel(
        rows(
            "Processes",
            'SELECT device, pid, name, username AS "user", container, memory_bytes, started_at, last_seen '
            "FROM processes d WHERE " + _NODE + " AND $__timeFilter(last_seen) ORDER BY last_seen DESC LIMIT 200",
        )
    ).with_panel(
        rows(
            "NVLink",
            "SELECT device, link, active, speed_mbps, remote, errors, changed_at FROM nvlinks d WHERE " + _NODE
            + " ORDER BY device, link",
        )
    )  # fmt: skip


def device() -> Dashboard:
    """One device with all of its metrics."""
    made = page("device", "Autopilot: device").with_variable(
        choice("device", "SELECT DISTINCT device FROM devices ORDER BY 1", multi=False)
    )
    groups: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("Power", "watt", ("power_w", "power_enforced_w", "power_cap_w")),
        ("Temperature", "celsius", ("temp_c", "temp_mem_c")),
        ("Utilisation", "percent", ("gpu_util_pct", "mem_util_pct")),
        ("Memory", "bytes", ("memory_used_bytes", "memory_total_bytes")),
        ("Clocks (MHz)", "none", ("clock_sm_mhz", "clock_mem_mhz")),
        ("Fan", "percent", ("fan_pct",)),
    )
    for title, unit, metrics in groups:
        sql = " UNION ALL ".join(by_interval(m, _DEVICE, name=f"'{m}'").removesuffix(" ORDER BY 1") for m in metrics)
        made.with_panel(chart(title, f"{sql} ORDER BY 1", unit))
    counters = ("ecc_sbe", "pcie_replays")
    for metric in counters:
        made.with_panel(
            chart(f"{metric} (counter)", by_interval(metric, _DEVICE, rollup="last", name=f"'{metric}'"), "short")
        )
    return (
        made.with_panel(
            chart(
                "Energy per hour",
                "SELECT e.ts AS time, d.node AS metric, e.energy_j / 3.6e6 AS value FROM energy e "
                "JOIN devices d USING (device_id) WHERE " + _DEVICE + " AND $__timeFilter(e.ts) ORDER BY 1",
                "kwatth",
            )
        )
        .with_panel(
            rows(
                "Events",
                "SELECT ts AS time, node, kind, code, message FROM events d WHERE " + _DEVICE
                + " AND $__timeFilter(ts) ORDER BY ts DESC LIMIT 200",
            )
        )
        .with_panel(
            rows(
                "Jobs",
                "SELECT finished_at AS time, id, kind, status, worker, energy_j FROM jobs d WHERE " + _DEVICE
                + " AND $__timeFilter(finished_at) ORDER BY finished_at DESC LIMIT 200",
                width=24,
            )
        )
    )  # fmt: skip


def energy() -> Dashboard:
    """Energy and cost: kWh, money, CO2, by hour, model, device and kind of job."""
    spent = "FROM energy e JOIN devices d USING (device_id) WHERE $__timeFilter(e.ts) AND d." + _NODES
    price = "(SELECT value FROM factors WHERE name = 'price_per_kwh')"
    carbon = "(SELECT value FROM factors WHERE name = 'co2_g_per_kwh')"
    return (
        page("energy", "Autopilot: energy and cost", "now-24h")
        .with_variable(choice("node", "SELECT DISTINCT node FROM devices ORDER BY 1", multi=True))
        .with_panel(number("Energy", f"SELECT sum(e.energy_j) / 3.6e6 {spent}", "kwatth", width=6))
        .with_panel(number("Cost", f"SELECT sum(e.energy_j) / 3.6e6 * {price} {spent}", "short", width=6))
        .with_panel(number("CO2", f"SELECT sum(e.energy_j) / 3.6e6 * {carbon} {spent}", "massg", width=6))
        .with_panel(
            number(
                "Energy of jobs",
                "SELECT sum(energy_j) / 3.6e6 FROM jobs WHERE $__timeFilter(finished_at)",
                "kwatth",
                width=6,
            )
        )
        .with_panel(
            chart(
                "Energy per hour",
                f"SELECT e.ts AS time, d.model AS metric, sum(e.energy_j) / 3.6e6 AS value {spent} GROUP BY 1, 2 ORDER BY 1",
                "kwatth",
                stacked=True,
            )
        )
        .with_panel(
            chart(
                "Cost per hour",
                f"SELECT e.ts AS time, sum(e.energy_j) / 3.6e6 * {price} AS cost {spent} GROUP BY 1 ORDER BY 1",
                "short",
            )
        )
        .with_panel(
            bars(
                "By model",
                f"SELECT d.model, sum(e.energy_j) / 3.6e6 AS kwh {spent} GROUP BY 1 ORDER BY 2 DESC",
                "kwatth",
            )
        )
        .with_panel(
            rows(
                "By device",
                f'SELECT d.device, d.node, d.model, sum(e.energy_j) / 3.6e6 AS "kWh" {spent} GROUP BY 1, 2, 3 '
                "ORDER BY 4 DESC LIMIT 100",
                links={"device": _DEVICE_URL, "node": _NODE_URL},
            )
        )
        .with_panel(
            rows(
                "By kind of job",
                'SELECT kind, count(*) AS jobs, sum(energy_j) AS joules, avg(energy_j) AS "joules per job" FROM jobs '
                "WHERE $__timeFilter(finished_at) GROUP BY kind ORDER BY 3 DESC NULLS LAST",
                width=24,
            )
        )
    )


def health() -> Dashboard:
    """Hardware health: XIDs, memory errors, throttling, lost devices."""
    mine = "$__timeFilter(ts) AND " + _NODES
    return (
        page("health", "Autopilot: health", "now-24h")
        .with_variable(choice("node", "SELECT DISTINCT node FROM devices ORDER BY 1", multi=True))
        .with_panel(number("XIDs", f"SELECT count(*) FROM events WHERE kind = 'xid' AND {mine}", width=6))
        .with_panel(number("Devices lost", f"SELECT count(*) FROM events WHERE kind = 'lost' AND {mine}", width=6))
        .with_panel(
            number(
                "Uncorrected memory errors",
                "SELECT coalesce(sum(n), 0) FROM (SELECT max(s.ecc_dbe_max) AS n FROM samples_1h s JOIN devices d "
                f"USING (device_id) WHERE $__timeFilter(s.ts) AND d.{_NODES} GROUP BY s.device_id) worst",
                width=6,
            )
        )
        .with_panel(
            number("Open alerts", f"SELECT count(*) FROM alerts WHERE state <> 'resolved' AND {_NODES}", width=6)
        )
        .with_panel(
            chart(
                "Events",
                f"SELECT {_GROUP} AS time, kind AS metric, count(*) AS value FROM events WHERE {mine} "
                "GROUP BY 1, 2 ORDER BY 1",
                "short",
                stacked=True,
            )
        )
        .with_panel(
            chart(
                "Devices slowed",
                f"SELECT {_GROUP} AS time, sum(throttled)::float / greatest(1, count(DISTINCT ts)) AS value "
                f"FROM nodes_1m WHERE {mine} GROUP BY 1 ORDER BY 1",
                "short",
            )
        )
        .with_panel(
            rows(
                "XIDs by device",
                f"SELECT node, device, code, count(*) AS times, max(ts) AS last FROM events WHERE kind = 'xid' AND {mine} "
                "GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 200",
                links={"device": _DEVICE_URL, "node": _NODE_URL},
            )
        )
        .with_panel(
            rows(
                "Memory errors",
                "SELECT d.node, d.device, max(s.ecc_sbe_max) AS corrected, max(s.ecc_dbe_max) AS uncorrected, "
                'max(s.remapped_rows_max) AS "rows remapped", max(s.row_remap_failure_max) AS "remap failed" '
                f"FROM samples_1h s JOIN devices d USING (device_id) WHERE $__timeFilter(s.ts) AND d.{_NODES} "
                "GROUP BY 1, 2 HAVING max(s.ecc_sbe_max) > 0 OR max(s.ecc_dbe_max) > 0 OR max(s.remapped_rows_max) > 0 "
                "ORDER BY 4 DESC NULLS LAST LIMIT 200",
                links={"device": _DEVICE_URL, "node": _NODE_URL},
            )
        )
        .with_panel(
            rows(
                "Events, newest first",
                f"SELECT ts AS time, node, device, kind, code, message FROM events WHERE {mine} ORDER BY ts DESC LIMIT 200",
                width=24,
                links={"device": _DEVICE_URL, "node": _NODE_URL},
            )
        )
    )


def pipeline() -> Dashboard:
    """The telemetry pipeline: lag, loss, rates."""
    return (
        page("pipeline", "Autopilot: pipeline", "now-3h")
        .with_panel(
            chart(
                "Samples written per second",
                "SELECT ts AS time, recorder AS metric, samples_per_s AS value FROM pipeline WHERE $__timeFilter(ts) "
                "ORDER BY 1",
                "short",
            )
        )
        .with_panel(
            chart(
                "Frames waiting",
                "SELECT ts AS time, recorder AS metric, backlog AS value FROM pipeline WHERE $__timeFilter(ts) ORDER BY 1",
                "short",
            )
        )
        .with_panel(
            chart(
                "Age of a frame when it is written",
                "SELECT ts AS time, recorder AS metric, age_s AS value FROM pipeline WHERE $__timeFilter(ts) ORDER BY 1",
                "s",
            )
        )
        .with_panel(
            chart(
                "Duplicates and frames that cannot be read, per second",
                "SELECT ts AS time, duplicates_per_s AS duplicates, errors_per_s AS unreadable FROM pipeline "
                "WHERE $__timeFilter(ts) ORDER BY 1",
                "short",
            )
        )
        .with_panel(
            rows(
                "Frames missing",
                'SELECT node, missing, ts AS "last frame" FROM frame_gaps WHERE $__timeFilter(ts) '
                "ORDER BY missing DESC LIMIT 200",
                links={"node": _NODE_URL},
            )
        )
        .with_panel(
            rows(
                "Nodes that fell silent",
                'SELECT node, max(last_at) AS "last frame" FROM frame_runs GROUP BY node '
                "HAVING max(last_at) < now() - interval '1 minute' ORDER BY 2 LIMIT 200",
                links={"node": _NODE_URL},
            )
        )
        .with_panel(
            chart(
                "Jobs finished",
                "SELECT $__timeGroup(finished_at, $__interval) AS time, status AS metric, count(*) AS value FROM jobs "
                "WHERE $__timeFilter(finished_at) GROUP BY 1, 2 ORDER BY 1",
                "short",
                stacked=True,
            )
        )
        .with_panel(
            chart(
                "Commands by outcome",
                "SELECT $__timeGroup(ts, $__interval) AS time, status AS metric, count(*) AS value FROM outcomes "
                "WHERE $__timeFilter(ts) GROUP BY 1, 2 ORDER BY 1",
                "short",
                stacked=True,
            )
        )
    )


PAGES = {"fleet": fleet, "node": node, "device": device, "energy": energy, "health": health, "pipeline": pipeline}
