"""Code findings as SARIF 2.1.0 (OASIS), which editors and code hosts read. Pure."""

from __future__ import annotations

from typing import Any

from accelerator_autopilot.contracts.kinds.analyze_code import CodeFinding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(findings: list[CodeFinding]) -> dict[str, Any]:
    """Return a SARIF log with one run per tool."""
    runs = []
    for tool in sorted({f.tool for f in findings}):
        own = [f for f in findings if f.tool == tool]
        rules = {f.rule: f for f in own}
        runs.append(
            {
                "tool": {
                    "driver": {
                        "name": tool,
                        "rules": [
                            {"id": rule, "properties": {"category": f.category}} | ({"helpUri": f.url} if f.url else {})
                            for rule, f in rules.items()
                        ],
                    }
                },
                "results": [
                    {
                        "ruleId": f.rule,
                        "level": f.severity,
                        "message": {"text": f.message},
                        "locations": [
                            {
                                "physicalLocation": {
                                    "artifactLocation": {"uri": f.file},
                                    "region": {"startLine": max(1, f.line), "startColumn": max(1, f.column)},
                                }
                            }
                        ],
                    }
                    | ({"suppressions": [{"kind": "inSource"}]} if f.suppressed else {})
                    for f in own
                ],
            }
        )
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": runs}
