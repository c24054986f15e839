"""The attentions of a graph that was fused, as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeattn.cli.console import print_table, shape


def print_attentions(report: Mapping[str, Any]) -> None:
    """Print a table of the attentions that a graph writes out."""
    rows = [
        (
            each["name"],
            "fused" if each["fused"] else "left",
            _windows(each),
            _joined(each, "shift"),
            _heads(each),
            "-" if each["map_size"] is None else shape(each["map_size"]),
            "-" if each["error"] is None else f"{each['error']:.2g}",
            each["reason"],
        )
        for each in report["attentions"]
    ]
    if rows:
        headings = ("attention", "became", "windows", "shift", "heads", "map", "error", "reason")
        print_table(headings, rows)


def _windows(each: Mapping[str, Any]) -> str:
    words = []
    for group in each["groups"]:
        mode = "" if group["mode"] == "block" else f"{group['mode']} "
        words.append(mode + "x".join(str(side or "all") for side in group["window"]))
    return " + ".join(words) or "-"


def _joined(each: Mapping[str, Any], name: str) -> str:
    return " + ".join(shape(group[name]) for group in each["groups"]) or "-"


def _heads(each: Mapping[str, Any]) -> str:
    """Write heads and their channels: `3 of 32`, or `3 of 32, cosine`."""
    if not each["groups"]:
        return "-"
    cosine = ", cosine" if each["qk_mode"] == "cosine" else ""
    heads = " + ".join(str(group["heads"]) for group in each["groups"])
    return f"{heads} of {each['head_dim']}{cosine}"
