"""Models of other libraries with our attention in place of theirs, weights kept.

One file per library's family; `register_adapter` takes in any other class.
"""

from edgeattn.models.adapters.adapt import (
    Adaptation,
    AdaptedAttention,
    PartlyAdaptedWarning,
    adapt,
    adapt_with_report,
)
from edgeattn.models.adapters.registry import Adapter, register_adapter

__all__ = [
    "Adaptation",
    "AdaptedAttention",
    "Adapter",
    "PartlyAdaptedWarning",
    "adapt",
    "adapt_with_report",
    "register_adapter",
]
