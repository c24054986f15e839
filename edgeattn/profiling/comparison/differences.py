"""What else differs between two sides, beside what somebody wanted to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edgeattn.profiling.comparison.ratio import LEAST_TURNS, num_turns_of
from edgeattn.profiling.comparison.sides import Side, machine_name

# Versions that move a latency; Python and the exporters do not.
_TOOLS = ("tensorrt", "onnxruntime")
_ABSENT = "none"


def differences(a: Side, b: Side) -> Iterator[str]:
    """Name what the latencies of two sides do not have in common, one sentence each.

    Args:
        a: The reference.
        b: The candidate. Where one was not timed, there is nothing to tell.
    """
    if a.latency is None or b.latency is None:
        return
    both = f"{a.letter} and {b.letter}"
    if a.sha256 and a.sha256 == b.sha256:
        yield f"{both} are the same engine by their hash: what they differ in is not its doing"
    if a.is_report or b.is_report:
        yield (
            f"{both} were measured in different runs: what changed in between is in their ratio, "
            "and not in its interval"
        )
    elif a.times and b.times and (turns := num_turns_of(a.times, b.times)) < LEAST_TURNS:
        yield (
            f"{both} had {turns} turn{'s' if turns > 1 else ''} each, and their interval does not "
            f"know how turns differ; measure longer, for {LEAST_TURNS} turns or more"
        )
    if a.mode_name != b.mode_name:
        yield f"the latencies hold different things: {a.letter} is {a.mode}; {b.letter} is {b.mode}"
    # By their order: names may differ, as those of a single input do.
    for (name, ours), theirs in zip(a.inputs.items(), b.inputs.values(), strict=False):
        if ours != theirs:
            yield _differ(f"shapes of the input {name}", a, b, _shape(ours), _shape(theirs))
    if len(a.inputs) != len(b.inputs):
        yield _differ("numbers of inputs", a, b, len(a.inputs), len(b.inputs))
    yield from _machines(a, b)
    for name, ours in a.settings.items():
        theirs = b.settings.get(name, ours)
        if ours != theirs and name != "engine":
            words = name.replace("_", " ")
            yield f"the setting {words} {_values(a, b, ours, theirs)}"
    streams = [side.settings.get("streams", 1) for side in (a, b)]
    if streams[0] != streams[1] and 1 in streams:  # else it is a setting of both
        yield _differ("queries in flight", a, b, *streams)


def troubles(sides: Iterable[Side]) -> Iterator[str]:
    """Repeat what makes the figures of sides less than trustworthy, each sentence once."""
    letters: dict[str, list[str]] = {}
    for side in sides:
        for warning in side.warnings:
            letters.setdefault(warning, []).append(side.letter)
    for warning, of in letters.items():
        yield f"{', '.join(of)}: {warning}"


def _machines(a: Side, b: Side) -> Iterator[str]:
    of_a, of_b = (machine_name(side.environment) for side in (a, b))
    if of_a != of_b:
        yield _differ("machines", a, b, of_a, of_b)
    if a.environment and b.environment:
        ours, theirs = a.environment, b.environment
        if ours.governor != theirs.governor:
            yield _differ("frequency governors", a, b, ours.governor, theirs.governor)
        for tool in _TOOLS:
            versions = [environment.tools.get(tool) for environment in (ours, theirs)]
            if versions[0] != versions[1]:
                yield _differ(f"versions of {tool}", a, b, *versions)
    if a.board and b.board:
        traces = a.board.trace, b.board.trace
        for what, name in (("boards", "board"), ("power modes", "power_mode")):
            values = [getattr(trace, name) for trace in traces]
            if values[0] != values[1]:
                yield _differ(what, a, b, *values)
        locked = [trace.jetson_clocks for trace in traces]
        if None not in locked and locked[0] != locked[1]:
            words = ["locked" if each else "free to move" for each in locked]
            yield _differ("clocks of the GPU", a, b, *words)


def _differ(what: str, a: Side, b: Side, ours: Any, theirs: Any) -> str:
    return f"the {what} {_values(a, b, ours, theirs).replace('differs', 'differ', 1)}"


def _values(a: Side, b: Side, ours: Any, theirs: Any) -> str:
    return f"differs: {a.letter} {_plain(ours)}, {b.letter} {_plain(theirs)}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _ABSENT if value in (None, "") else str(value)


def _shape(dims: tuple[int, ...]) -> str:
    return "×".join(map(str, dims))
