"""What can be built for: the boards with their modules and releases, and desktop GPUs."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from edgeattn.errors import TargetError
from edgeattn.targets.cards import find_card
from edgeattn.targets.gpu import Gpu
from edgeattn.targets.modules import MODULES, Module
from edgeattn.targets.releases import (
    JETPACK_6,
    JETPACK_7_0,
    JETPACK_7_1,
    JETPACK_7_2,
    JETPACK_7_2_1,
    NAMED_ONLY,
    JetPack,
)


@dataclass(frozen=True)
class Target:
    """What an engine or a plugin can be built for.

    Attributes:
        name: As the command line spells it.
        title: For people.
        machine: The processor's architecture, as `uname -m` says it.
        architectures: SM numbers of its GPUs.
        modules: The modules that it may have, the least memory first; none on a desktop.
        jetpacks: Releases that run on it; none on a desktop.
    """

    name: str
    title: str
    machine: str
    architectures: tuple[int, ...]
    modules: tuple[Module, ...] = ()
    jetpacks: tuple[JetPack, ...] = ()

    @property
    def gpu(self) -> Gpu | None:
        """The figures that none of its modules exceeds; `None` where there are many GPUs."""
        return self.modules[-1].fastest if self.modules else None

    def jetpack(self, version: str) -> JetPack:
        """Find a release of the board.

        Raises:
            TargetError: If none of that version runs on it, or none is known.
        """
        for jetpack in self.jetpacks:
            if jetpack.version == version:
                return jetpack
        known = ", ".join(jetpack.version for jetpack in self.jetpacks)
        raise TargetError(
            f"no JetPack {version} is known for {self.name}; expected "
            + (known or "none: it runs no JetPack"),
            NAMED_ONLY.get(version, "") if known else "",
        )


_ORIN_JETPACKS = (*JETPACK_6, JETPACK_7_2, JETPACK_7_2_1)


def _modules(*names: str) -> tuple[Module, ...]:
    return tuple(MODULES[name] for name in names)


TARGETS = {
    target.name: target
    for target in (
        Target(
            "jetson-orin-nano",
            "Jetson Orin Nano",
            "aarch64",
            (87,),
            _modules("orin-nano-4gb", "orin-nano-8gb"),
            _ORIN_JETPACKS,
        ),
        Target(
            "jetson-orin-nx",
            "Jetson Orin NX",
            "aarch64",
            (87,),
            _modules("orin-nx-8gb", "orin-nx-16gb"),
            _ORIN_JETPACKS,
        ),
        Target(
            "jetson-agx-orin",
            "Jetson AGX Orin",
            "aarch64",
            (87,),
            _modules("agx-orin-32gb", "agx-orin-64gb"),
            _ORIN_JETPACKS,
        ),
        Target(
            "jetson-thor",
            "Jetson Thor",
            "aarch64",
            (110,),
            _modules("thor-t4000", "thor-t5000"),
            (JETPACK_7_0, JETPACK_7_1, JETPACK_7_2, JETPACK_7_2_1),
        ),
        Target("desktop", "Desktop and server GPUs", "x86_64", (80, 86, 89, 90, 100, 120)),
    )
}


# What the device trees of boards hold, in lower case.
_MODELS = {
    "orin nano": "jetson-orin-nano",
    "orin nx": "jetson-orin-nx",
    "agx orin": "jetson-agx-orin",
    "thor": "jetson-thor",
}


def get_target(name: str) -> Target:
    """Find a target by its name.

    Raises:
        TargetError: If there is none of that name; it names those that come close.
    """
    if name in TARGETS:
        return TARGETS[name]
    near = difflib.get_close_matches(name, TARGETS)
    raise TargetError(
        f"there is no target {name!r}; expected one of {', '.join(TARGETS)}",
        f"did you mean {' or '.join(near)}?" if near else "",
    )


def target_of_model(model: str) -> Target | None:
    """Find a board by what its device tree calls it; `None` if it is none of those known."""
    for words, name in _MODELS.items():
        if words in model.lower():
            return TARGETS[name]
    return None


def module_of_board(model: str, memory_bytes: int | None = None) -> Module | None:
    """Find the module of a board.

    Args:
        model: What the device tree calls the board.
        memory_bytes: What the system has of memory, which is a little less than the module has.

    Returns:
        The smallest module of the board that has so much; the largest one if the memory is not
        known. `None` if it is none of the boards known.
    """
    board = target_of_model(model)
    if board is None:
        return None
    fitting = [m for m in board.modules if memory_bytes and memory_bytes <= m.memory_bytes]
    return (fitting or board.modules[-1:])[0]


def find_gpu(
    name: str, architecture: int, model: str = "", memory_bytes: int | None = None
) -> Gpu | None:
    """Find the figures of a GPU.

    Args:
        name: As the driver calls it: all Orins have one name, so that the board decides.
        architecture: SM number.
        model: What the device tree calls the board; empty on a desktop. It ends in `Super` where
            the board was flashed for the Super modes.
        memory_bytes: The GPU's memory, on a board the system's; it tells modules and cards of one
            name apart.

    Returns:
        `None` if no figures of it are known.
    """
    module = module_of_board(model, memory_bytes)
    if module is not None and architecture == module.gpu.architecture:
        return module.fastest if "super" in model.lower() else module.gpu
    return find_card(name, architecture, memory_bytes)
