"""The models of the toolkit by name: what they are, how to build them, what they cost.

Listing the models imports no framework; only building one imports torch.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from edgeattn.errors import MissingDependencyError, ModelError
from edgeattn.inputs import ImagePreprocess, InputSpec
from edgeattn.models.weights_io import load_weights

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ModelEntry",
    "count_macs",
    "count_parameters",
    "create_model",
    "get_entry",
    "load_weights",
    "model_names",
]

_WEIGHTS_FOLDER = Path(__file__).parent / "weights"
# Weights that no file gives are drawn from this seed, so that two builds of a model are equal.
_SEED = 0


@dataclass(frozen=True)
class ModelEntry:
    """One model of the registry.

    Attributes:
        name: What users type.
        family: The models that share its code.
        builder: `module:function` that builds it, without arguments.
        input: Its input, of static shape; for images with the preprocessing.
        summary: One sentence for the list of models.
        weights: The shipped weights; `None` if its weights are random.
        classes: Labels of the outputs; empty if they mean nothing, as with random weights.
    """

    name: str
    family: str
    builder: str
    input: InputSpec
    summary: str
    weights: Path | None = None
    classes: tuple[str, ...] = ()

    def build(self, *, shapes_only: bool = False) -> nn.Module:
        """Build the model with random weights.

        Args:
            shapes_only: Give the weights shapes but neither memory nor values (torch's `meta`
                device): enough to count, at once for the largest model.

        Raises:
            MissingDependencyError: If torch is not installed.
        """
        _require_torch(self.name)
        import torch

        module, _, function = self.builder.partition(":")
        builder = getattr(importlib.import_module(module), function)
        with torch.device("meta") if shapes_only else contextlib.nullcontext():
            model: nn.Module = builder()
        return model


def model_names() -> list[str]:
    """List the names of all models, families together and small models first."""
    return list(_ENTRIES)


def get_entry(name: str) -> ModelEntry:
    """Look up a model.

    Raises:
        ModelError: If there is none of this name; the hint has the near misses.
    """
    if name in _ENTRIES:
        return _ENTRIES[name]
    near = difflib.get_close_matches(name.lower().replace("-", "_"), _ENTRIES, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_ENTRIES)}"
    raise ModelError(f"there is no model named {name!r}", hint)


def create_model(
    name: str, *, weights: Literal["shipped"] | str | Path | None = "shipped"
) -> nn.Module:
    """Build a model in eval mode, with its weights.

    Random weights are drawn from a fixed seed and leave torch's own random state alone.

    Args:
        name: A name of the registry.
        weights: `shipped` for the weights that come with the package (random ones, with a logged
            warning, if none do), a file, or `None` for random ones.

    Raises:
        ModelError: If the model is unknown or the weights do not fit.
        ArtifactError: If the file is missing or unreadable.
        MissingDependencyError: If torch or safetensors is not installed.
    """
    entry = get_entry(name)
    _require_torch(name)
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = entry.build()
    path = entry.weights if weights == "shipped" else weights
    if path is not None:
        load_weights(model, path)
    elif weights == "shipped":
        logging.getLogger(__name__).warning("%s ships no weights: they are random", name)
    return model.eval()


def count_parameters(model: nn.Module) -> int:
    """Count the numbers that a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, model_input: InputSpec) -> int:
    """Count the multiply-accumulate operations of one forward pass.

    Products of matrices, convolutions and attention count; norms, activations, biases and the
    softmax do not. Nothing is computed: shapes alone go through the model.

    Args:
        model: Any module with one input.
        model_input: Its input, of static shape.

    Raises:
        ModelError: If the shape is not static.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    importlib.import_module("edgeattn.models.flops")  # gives the counter the operator's formula
    if not all(isinstance(dim, int) for dim in model_input.shape):
        raise ModelError(
            f"the input {model_input.name} has the shape {model_input.shape}; expected static "
            "sizes to count operations"
        )
    tensors = {
        name: tensor.to("meta")
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    example = torch.empty(
        model_input.shape,  # type: ignore[arg-type]  # all are integers, checked above
        dtype=getattr(torch, model_input.dtype),
        device="meta",
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(model, tensors, (example,))
    return int(counter.get_total_flops()) // 2


_MNIST = InputSpec((1, 1, 28, 28), preprocess=ImagePreprocess((0.1307,), (0.3081,)))
_IMAGENET = InputSpec(
    (1, 3, 224, 224),
    preprocess=ImagePreprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256),
)
_DIGITS = tuple("0123456789")
_MOTIONS = ("Standing", "Running", "Walking", "Badminton")


def _shipped(name: str) -> Path:
    return _WEIGHTS_FOLDER / f"{name}.safetensors"


def _entries() -> Mapping[str, ModelEntry]:
    mswin, parallel = "edgeattn.models.mswin", "edgeattn.models.parallel"
    sequence, dmsanet = "edgeattn.models.sequence", "edgeattn.models.dmsanet"
    entries = [
        ModelEntry(
            "mswin_nano",
            "mswin",
            f"{mswin}:mswin_nano",
            _MNIST,
            "Windowed backbone, windows of 4 to 8 tokens mixed in each layer; handwritten digits.",
            _shipped("mswin_nano"),
            _DIGITS,
        ),
        *(
            ModelEntry(
                f"mswin_{size}",
                "mswin",
                f"{mswin}:mswin_{size}",
                _IMAGENET,
                f"The windowed backbone at the size of Swin-{size[0].upper()}; random weights.",
            )
            for size in ("tiny", "small", "base")
        ),
        ModelEntry(
            "msseq_nano",
            "msseq",
            f"{sequence}:msseq_nano",
            InputSpec((1, 6, 100)),
            "Sliding windows of several sizes over a sensor signal; human motions.",
            _shipped("msseq_nano"),
            _MOTIONS,
        ),
        ModelEntry(
            "msseq_tiny",
            "msseq",
            f"{sequence}:msseq_tiny",
            InputSpec((1, 6, 1000)),
            "Sliding windows of several sizes over a long signal; random weights.",
        ),
        ModelEntry(
            "pmsa_nano",
            "pmsa",
            f"{parallel}:pmsa_nano",
            _MNIST,
            "Parallel attention branches at three reductions of the map; handwritten digits.",
            _shipped("pmsa_nano"),
            _DIGITS,
        ),
        ModelEntry(
            "pmsa_tiny",
            "pmsa",
            f"{parallel}:pmsa_tiny",
            _IMAGENET,
            "Parallel attention branches at three reductions of the map; random weights.",
        ),
        *(
            ModelEntry(
                f"dmsanet_{depth}",
                "dmsanet",
                f"{dmsanet}:dmsanet_{depth}",
                _IMAGENET,
                f"ResNet-{depth} with dual multi-scale attention in its blocks; random weights.",
            )
            for depth in (26, 50, 101)
        ),
    ]
    return MappingProxyType({entry.name: entry for entry in entries})


_ENTRIES = _entries()


def _require_torch(name: str) -> None:
    try:
        importlib.import_module("torch")
    except ImportError as err:
        raise MissingDependencyError(
            f"building {name} needs torch, which cannot be imported: {err}",
            'pip install "edgeattn[export]"',
        ) from err
