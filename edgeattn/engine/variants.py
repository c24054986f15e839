"""The forms in which a graph may become an engine: as it is written, or with attention fused.

Which of them is fastest nobody knows before they have run; `edgeattn.engine.autotune` finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeattn.engine.typed import TypedGraph, make_typed
from edgeattn.graph.op import attention_nodes

Step = Callable[[str], None]
VariantName = Literal["as written", "windows", "everything"]

# By what is said of attention of all tokens to all; the preferred form first.
_NAMES: Mapping[bool | None, tuple[VariantName, ...]] = {
    None: ("windows", "everything", "as written"),
    True: ("everything", "as written"),
    False: ("windows", "as written"),
}


@dataclass(frozen=True)
class Variant:
    """One form of a graph.

    Attributes:
        name: `as written`; `windows`, with window attention fused; `everything`, with attention of
            all tokens to all fused too.
        typed: The graph in this form.
    """

    name: VariantName
    typed: TypedGraph

    @property
    def is_fused(self) -> bool:
        """Whether an attention node took the place of anything that the graph writes out."""
        return bool(self.typed.fusion.get("fused"))

    @property
    def has_attention(self) -> bool:
        """Whether the graph has attention nodes, its own or those that were put there."""
        return bool(attention_nodes(self.typed.model))

    @property
    def options(self) -> dict[str, Any]:
        """Options of `edgeattn.engine.build.build` that give this form without trying others."""
        return {
            "fuse": self.name != "as written",
            "global_attention": self.name == "everything",
        }


def make_variants(
    graph: Path,
    folder: Path,
    *,
    table: Path | str | None = None,
    precision: str | None = None,
    fuse: bool = True,
    global_attention: bool | None = None,
    step: Step = lambda what: None,
) -> tuple[Variant, ...]:
    """Make each form of a graph that differs from the others, in one precision.

    Args:
        graph: The ONNX file.
        folder: Temporary folder, for the graphs on the way.
        table: Its calibration table; it belongs to the graph as it is written.
        precision: As `quantize` takes it.
        fuse: Whether attention may be fused at all.
        global_attention: `True` to fuse that of all tokens to all wherever anything is fused,
            `False` to fuse it nowhere, `None` to try both.
        step: Called with the name of each step before it begins.

    Returns:
        The preferred form first. One alone if nothing is found that could be fused, or nothing may
        be.

    Raises:
        EdgeAttnError: What `make_typed` raises.
    """

    def make(name: VariantName) -> Variant:
        apart = folder / name.replace(" ", "-")
        apart.mkdir(exist_ok=True)
        typed = make_typed(
            graph,
            apart,
            table=table,
            precision=precision,
            fuse=name != "as written",
            global_attention=name == "everything",
            step=step,
        )
        return Variant(name, typed)

    if not fuse:
        return (make("as written"),)
    first, *others = _NAMES[global_attention]
    made = [make(first)]
    fusion = made[0].typed.fusion
    if not fusion.get("found") or "skipped" in fusion:
        return tuple(made)
    if "everything" in others and fusion["left"]:
        all_fused = make("everything")
        if all_fused.typed.fusion["fused"] > fusion["fused"]:
            made.append(all_fused)
    if all(variant.is_fused for variant in made):
        made.append(make("as written"))
    return tuple(made)


def as_written(variants: tuple[Variant, ...]) -> TypedGraph:
    """Find the form that says what is to be computed: the graph as it was given."""
    return next((v.typed for v in variants if not v.is_fused), variants[0].typed)
