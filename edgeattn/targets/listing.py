"""All that is known of boards and GPUs, as JSON values."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from typing import Any

from edgeattn.errors import TargetError
from edgeattn.targets.architectures import SMS
from edgeattn.targets.boards import TARGETS, Target
from edgeattn.targets.cards import CARDS
from edgeattn.targets.modules import MODULES


def list_targets() -> dict[str, Any]:
    """List everything: targets with their modules and releases, GPUs, architectures."""
    return {
        "targets": [_target(target) for target in TARGETS.values()],
        "gpus": [asdict(gpu) for gpu in CARDS],
        "architectures": [asdict(sm) | {"precisions": sm.precisions} for sm in SMS.values()],
    }


def describe_target(name: str) -> dict[str, Any]:
    """Describe a target, one module of a board or a GPU.

    Args:
        name: A target's or module's, as `edgeattn targets` lists it, or a GPU's with or without
            `NVIDIA` and `GeForce`.

    Returns:
        One of `target`, `module` and `gpus`: cards of one name may differ by their memory.

    Raises:
        TargetError: If there is nothing of that name; it names what comes close.
    """
    if name in TARGETS:
        return {"target": _target(TARGETS[name])}
    if name in MODULES:
        return {"module": asdict(MODULES[name])}
    cards = [asdict(gpu) for gpu in CARDS if _bare(gpu.name) == _bare(name)]
    if cards:
        return {"gpus": cards}
    known = {spelling: spelling for spelling in (*TARGETS, *MODULES)}
    known |= {_bare(gpu.name): gpu.name for gpu in CARDS}
    near = [known[found] for found in difflib.get_close_matches(_bare(name), known)]
    raise TargetError(
        f"nothing is known of {name!r}; expected a target, a module or a GPU",
        f"did you mean {' or '.join(near)}?" if near else "`edgeattn targets` lists what is known",
    )


def _target(target: Target) -> dict[str, Any]:
    gpu = target.gpu
    return asdict(target) | {"gpu": asdict(gpu) if gpu else None}


def _bare(name: str) -> str:
    """Spell a GPU's name without what people leave out."""
    words = name.lower().replace("-", " ").split()
    return " ".join(word for word in words if word not in ("nvidia", "geforce"))
