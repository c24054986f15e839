"""The boards and GPUs that engines are built for: what is on them, and which software they run.

Plain data with its sources; importing it costs nothing. Figures that no source at hand gives are
`None`, never guessed.
"""

from edgeattn.targets.architectures import (
    CTA_RESERVED_SHARED_BYTES,
    SM_REGISTERS,
    SMS,
    WARP_REGISTER_UNIT,
    Sm,
    check_architectures,
    has_machine_code,
    precisions_of,
    runs_on,
)
from edgeattn.targets.boards import (
    TARGETS,
    Target,
    find_gpu,
    get_target,
    module_of_board,
    target_of_model,
)
from edgeattn.targets.cards import CARDS, H200
from edgeattn.targets.gpu import Gpu
from edgeattn.targets.modules import (
    AGX_ORIN,
    MODULES,
    ORIN_NANO_SUPER,
    ORIN_NX,
    THOR,
    Module,
    PowerMode,
)
from edgeattn.targets.releases import JetPack

__all__ = [
    "AGX_ORIN",
    "CARDS",
    "CTA_RESERVED_SHARED_BYTES",
    "H200",
    "MODULES",
    "ORIN_NANO_SUPER",
    "ORIN_NX",
    "SMS",
    "SM_REGISTERS",
    "TARGETS",
    "THOR",
    "WARP_REGISTER_UNIT",
    "Gpu",
    "JetPack",
    "Module",
    "PowerMode",
    "Sm",
    "Target",
    "check_architectures",
    "find_gpu",
    "get_target",
    "has_machine_code",
    "module_of_board",
    "precisions_of",
    "runs_on",
    "target_of_model",
]
