"""Numbers as people read them: few digits, a unit, a dash where there is nothing."""

from __future__ import annotations

import math

NOTHING = "–"
_PREFIXES = ("", "k", "M", "G", "T")


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with so many significant digits, without an exponent.

    Args:
        value: `None` gives a dash.
        digits: Significant digits; those before the point are never rounded away.
    """
    if value is None:
        return NOTHING
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{min(decimals, 6)}f}"


def milliseconds(value: float | None) -> str:
    """Write a time with its unit."""
    return NOTHING if value is None else f"{number(value)} ms"


def percent(share: float | None) -> str:
    """Write a share of 0 to 1 as percent."""
    return NOTHING if share is None else f"{100 * share:.1f} %"


def scaled(value: float | None, unit: str) -> str:
    """Write an amount with the decimal prefix that suits it: `12.3 MB`, `1.81 GFLOP`."""
    if value is None:
        return NOTHING
    steps = 0
    while abs(value) >= 1000 and steps < len(_PREFIXES) - 1:
        value, steps = value / 1000, steps + 1
    return f"{number(value, 3)} {_PREFIXES[steps]}{unit}"


def count(amount: int, noun: str) -> str:
    """Write how many there are: `1 layer`, `12 layers`."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def queries(amount: int) -> str:
    """Write how many queries there are."""
    return f"{amount:,} " + ("query" if amount == 1 else "queries")


def percentile_name(key: str) -> str:
    """Name a percentile by its key in a report: `p99_9_ms` is `p99.9`."""
    return key.removesuffix("_ms").replace("_", ".")
