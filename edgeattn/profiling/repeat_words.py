"""What repeated builds mean, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.artifacts import Manifest
from edgeattn.profiling.repeated_builds import RepeatedBuilds

# What other tools make of the same graph is another engine.
_TOOLS = ("edgeattn", "numpy", "onnx", "onnxruntime", "tensorrt")


def build_sentences(record: RepeatedBuilds, margin: float, fault: str = "") -> Iterator[str]:
    """Say what was found, and which engine was kept.

    Args:
        record: What was found.
        margin: What part of a median may be noise.
        fault: Why a faster build is not kept, from its verb on; empty if it is, or none is faster.
    """
    builds = [row for row in record.rows if row.role == "build"]
    count = f"{len(builds)} build" + ("" if len(builds) == 1 else "s")
    spread = f"spread over {record.spread_percent:.2f} %"
    noise = f"the same engine loaded twice differs by {record.noise_percent:.2f} %"
    if record.identical:
        yield (
            f"{count} gave the bytes of the engine that was there: that the medians {spread} is "
            f"noise; {noise}."
        )
        return
    is_noise = record.spread_percent <= 100 * margin
    yield (
        f"{count}: with the engine that was there, the medians {spread}, and {noise}: "
        + ("no more than noise." if is_noise else "more than noise.")
    )
    told = [row.differing for row in builds if row.differing is not None]
    if told:
        yield (
            f"Other kernels than in the engine that was there: in {sum(map(bool, told))} of "
            f"{count}, in up to {max(told)} layers; it has {record.rows[0].layers}."
        )
    yield _verdict(record, fault)


def _verdict(record: RepeatedBuilds, fault: str) -> str:
    confirmed = record.confirmed
    if confirmed is None:
        return "The engine that was there was kept: no build is surely faster."
    bounds = confirmed.ratio_interval
    found = f"measured once more, it takes {confirmed.ratio:.3f} times as long" + (
        f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
    )
    if record.replaced:
        return f"Build {record.kept.number} took the place of the engine that was there: {found}."
    if fault:
        return f"The engine that was there was kept: the fastest build {fault}; {found}."
    return (
        "The engine that was there was kept: the fastest build is not surely faster a second time; "
        f"{found}."
    )


def changed_tools(was: Manifest, now: Manifest) -> Iterator[str]:
    """Say what else than chance may make the builds differ from the engine that was there."""
    for name in _TOOLS:
        old, new = was.tools.get(name), now.tools.get(name)
        if old != new:
            yield (
                f"The engine that was there was built with {name} {old}, the new ones with {new}: "
                "what differs from it may not be chance."
            )
