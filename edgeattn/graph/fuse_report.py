"""What fusing did to a graph, as JSON values for manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from edgeattn.graph.fusion.found import FoundAttention, Fusion

Report = dict[str, Any]

_TOLD_REASONS = 2


def fuse_report(fusion: Fusion) -> Report:
    """Describe what became of a graph.

    Returns:
        `found`, `fused` and `left`, which count attentions; `nodes_before` and `nodes_after`;
        `max_error`, the largest relative error of a rewrite on random inputs, `None` without one;
        `attentions`, each in the graph's order with what it computes, and the reason why it was
        left, or why attention of all tokens to all was fused.
    """
    errors = [found.error for found in fusion.fused if found.error is not None]
    return {
        "found": len(fusion.attentions),
        "fused": len(fusion.fused),
        "left": len(fusion.attentions) - len(fusion.fused),
        "nodes_before": fusion.nodes_before,
        "nodes_after": fusion.nodes_after,
        "max_error": max(errors, default=None),
        "attentions": [_describe(found) for found in fusion.attentions],
    }


def _describe(found: FoundAttention) -> Report:
    described: Report = {
        "name": found.name,
        "fused": found.fused,
        "reason": found.reason,
        "output": found.output,
        "map_size": None if found.map_size is None else list(found.map_size),
        "error": found.error,
        "head_dim": None,
        "qk_mode": None,
        "groups": [],
    }
    if found.spec is not None:
        described |= {
            "head_dim": found.spec.head_dim,
            "qk_mode": found.spec.qk_mode,
            "groups": [
                {
                    "heads": group.num_heads,
                    "mode": group.mode,
                    "window": list(group.window_size),
                    "shift": list(group.shift_size),
                }
                for group in found.spec.head_groups
            ],
        }
    return described


def fusion_line(report: Mapping[str, Any]) -> str:
    """Say in a line what became of a graph's attentions.

    Args:
        report: What `fuse_report` tells, or a build's manifest under `fusion`.
    """
    found = report["found"]
    if not found:
        return "none is written out in the graph; there is nothing to fuse"
    if "skipped" in report:
        return f"none of {found} fused: {report['skipped']}"
    line = f"{report['fused'] or 'none'} of {found} fused"
    if report["fused"]:
        line += f", {report['nodes_before']} nodes became {report['nodes_after']}"
        line += f", relative error at most {report['max_error']:.2g}"
    chosen = told_reasons(report, fused=True)
    line += f"; of all tokens to all: {chosen}" if chosen else ""
    return f"{line}; left as written: {told_reasons(report)}" if report["left"] else line


def told_reasons(report: Mapping[str, Any], *, fused: bool = False) -> str:
    """Tell the most frequent reasons why attentions were left, or fused, each with its count."""
    reasons = (each["reason"] for each in report["attentions"] if each["fused"] == fused)
    counts = Counter(filter(None, reasons))
    told = [f"{reason} ({count})" for reason, count in counts.most_common(_TOLD_REASONS)]
    more = len(counts) - len(told)
    return "; ".join(told) + (f"; and {more} more, see edgeattn fuse --explain" if more else "")
