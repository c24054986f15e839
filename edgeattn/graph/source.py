"""What is exported: a module and its inputs, given, named in the registry or made by a factory."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.artifacts import Parent, sha256_of_file
from edgeattn.errors import ModelError, SpecError, first_line
from edgeattn.graph.torch_export import require
from edgeattn.inputs import InputSpec
from edgeattn.models.registry import create_model, get_entry, load_weights, model_names

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Source:
    """A model with what is known of it.

    Attributes:
        model: The module, filled with its weights, all of them numbers.
        name: What to call it.
        inputs: Its inputs, each of its own name.
        classes: Names of its outputs' entries, if known.
        weights: File it was filled from.
    """

    model: nn.Module
    name: str
    inputs: tuple[InputSpec, ...]
    classes: tuple[str, ...] = ()
    weights: Path | None = None

    def parents(self) -> dict[str, Parent]:
        """Name the model, by the hash of its weights, and the file they come from."""
        parents = {"model": Parent(self.name, _weights_sha256(self.model))}
        if self.weights:
            parents["weights"] = Parent(self.weights.name, sha256_of_file(self.weights))
        return parents

    def count_parameters(self) -> int:
        """Count the numbers that the model learns."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def resolve(
    model: nn.Module | str,
    spec: InputSpec | Sequence[InputSpec] | None,
    weights: Path | str | None,
) -> Source:
    """Find the model and its inputs.

    Args:
        model: A module, a name of the registry, or `module.path:callable`.
        spec: The inputs; models of the registry bring theirs.
        weights: File to fill the model from.

    Raises:
        ModelError: If the model is unknown, or its weights do not fit or are not finite.
        SpecError: If the inputs are not given, or two have one name.
        ArtifactError: If the weights cannot be read.
        MissingDependencyError: If torch is not installed.
    """
    require("torch")
    from torch import nn

    inputs = _as_inputs(spec)
    if isinstance(model, str) and ":" not in model:
        entry = get_entry(model)
        module = create_model(model, weights=weights or "shipped")
        # Weights of the user's own may have other classes.
        classes = () if weights else entry.classes
        file = Path(weights) if weights else entry.weights
        source = Source(module, model, _with_preprocess(inputs, entry.input), classes, file)
    else:
        if not inputs:
            raise SpecError(
                "the model's inputs are not known", "give them: --input NAME:1x3x224x224, or spec="
            )
        made: object = _call_factory(model) if isinstance(model, str) else model
        if not isinstance(made, nn.Module):
            origin = f"{model} gave" if isinstance(model, str) else "the model is"
            raise ModelError(f"{origin} a {type(made).__name__}; expected a torch module")
        module = made
        name = model.partition(":")[2] if isinstance(model, str) else type(model).__name__.lower()
        if weights:
            load_weights(module, weights)
        source = Source(module, name, inputs, weights=Path(weights) if weights else None)
    _check_finite(source.model)
    return source


def _as_inputs(spec: InputSpec | Sequence[InputSpec] | None) -> tuple[InputSpec, ...]:
    inputs = (spec,) if isinstance(spec, InputSpec) else spec or ()
    if not isinstance(inputs, Sequence) or not all(isinstance(i, InputSpec) for i in inputs):
        raise SpecError(
            f"the model's inputs are given as {spec!r}; expected an InputSpec or several",
            "write InputSpec((1, 3, 224, 224))",
        )
    names = [i.name for i in inputs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SpecError(f"two inputs have the name {twice[0]}", "give each a name of its own")
    return tuple(inputs)


def _with_preprocess(inputs: tuple[InputSpec, ...], default: InputSpec) -> tuple[InputSpec, ...]:
    """Give an input of the user's size the preprocessing of the registry's."""
    if not inputs:
        return (default,)
    return tuple(
        InputSpec(i.shape, i.name, i.dtype, i.preprocess or default.preprocess) for i in inputs
    )


def _call_factory(reference: str) -> object:
    """Call `module.path:callable`, found as Python would from the working folder."""
    from torch import nn

    module_path, _, attribute = reference.partition(":")
    hint = f"give module.path:callable, or a model of the registry: {', '.join(model_names())}"
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        factory = getattr(importlib.import_module(module_path), attribute)
    except (ImportError, AttributeError, ValueError) as err:
        raise ModelError(f"{reference} cannot be imported: {err}", hint) from err
    except Exception as err:  # whatever the user's module raises
        raise ModelError(f"{reference} cannot be imported: {first_line(err)}") from err
    finally:
        sys.path.remove(folder)
    if isinstance(factory, nn.Module) or not callable(factory):
        return factory
    try:
        return factory()
    except Exception as err:
        raise ModelError(
            f"{reference} cannot be called: {first_line(err)}", "it must need no argument"
        ) from err


def _check_finite(model: nn.Module) -> None:
    """Refuse NaN and infinity; a buffer may be infinite, for masks are."""
    parameters = dict(model.named_parameters())
    for name, tensor in _tensors(model).items():
        if tensor.is_floating_point():
            bad = ~tensor.isfinite() if name in parameters else tensor.isnan()
            if bool(bad.any()):
                raise ModelError(
                    f"the weight {name} holds NaN or infinity", "train or load the model again"
                )


def _weights_sha256(model: nn.Module) -> str:
    import torch

    tensors = _tensors(model)
    names = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    digest = hashlib.sha256(names.encode())
    for tensor in tensors.values():
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Collect weights and buffers; a module may keep other things in its state too."""
    import torch

    state = model.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
