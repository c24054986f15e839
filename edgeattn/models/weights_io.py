"""Files of weights: safetensors, or torch checkpoints that hold tensors and nothing else.

A file that does not fit its model is refused with the names at fault, and a pickle that would run
code is never run.

References:
    safetensors, "Format" in its README; `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.artifacts import atomic_path, open_for_reading
from edgeattn.errors import ArtifactError, MissingDependencyError, ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHECKPOINT_SUFFIXES = (".pt", ".pth")
# Keys under which training scripts keep the weights in a checkpoint.
_WRAPPERS = ("state_dict", "model")
_MOST_NAMES = 5
# First bytes of a checkpoint: an archive, or the bare pickle that torch wrote before 1.6.
_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"


def save_weights(
    model: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a model's parameters and buffers as safetensors, whole or not at all.

    Args:
        model: The model.
        path: File to write; its name ends in `.safetensors`.
        metadata: Kept in the file's header: how the weights came to be.

    Raises:
        ModelError: If the name ends otherwise or a weight is not finite.
        ArtifactError: If the file cannot be written.
        MissingDependencyError: If safetensors is not installed.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"weights are written as .safetensors, not as {path.name}")
    safetensors_torch = _import_safetensors()
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    _check_finite(state, "the model")
    with atomic_path(path) as temporary:
        safetensors_torch.save_file(state, temporary, dict(metadata or {}))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill a model with the weights of a file; the model stays as it is if they do not fit.

    Args:
        model: The model to fill.
        path: A `.safetensors` file, or a `.pt` or `.pth` checkpoint of tensors, also under the
            key `state_dict` or `model`.

    Raises:
        ModelError: If names or shapes differ, a weight is not finite, or a checkpoint holds
            more than tensors.
        ArtifactError: If the file is missing, unreadable or truncated.
        MissingDependencyError: If safetensors is not installed.
    """
    path = Path(path)
    state = read_state_dict(path)
    check_state_dict(model, state, str(path))
    model.load_state_dict(dict(state))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file by name, on the CPU.

    Raises:
        ModelError: If the kind of file is unknown or it holds more than tensors.
        ArtifactError: If it is missing, unreadable or truncated.
        MissingDependencyError: If safetensors is not installed.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _CHECKPOINT_SUFFIXES:
        return _read_checkpoint(path)
    raise ModelError(
        f"{path} is not a weights file that edgeattn reads",
        "give a .safetensors file, or a .pt or .pth checkpoint of tensors",
    )


def check_state_dict(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that do not fit a model.

    Args:
        model: The model.
        state: Tensors by name.
        source: Where they come from, for the message.

    Raises:
        ModelError: If names are missing or unexpected, shapes differ, or a weight is not finite;
            all at fault are named.
    """
    expected = model.state_dict()
    faults = []
    if missing := [name for name in expected if name not in state]:
        faults.append(f"missing {_listed(missing)}")
    if unexpected := [name for name in state if name not in expected]:
        faults.append(f"unexpected {_listed(unexpected)}")
    if shapes := [
        f"{name} {list(state[name].shape)} where the model has {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]:
        faults.append(f"other shapes: {_listed(shapes)}")
    if faults:
        raise ModelError(
            f"the weights of {source} do not fit {type(model).__name__}: {'; '.join(faults)}",
            "build the model with the settings that the weights were trained with",
        )
    _check_finite(state, source)


def _check_finite(state: Mapping[str, Tensor], source: str) -> None:
    bad = [
        name
        for name, tensor in state.items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if bad:
        raise ModelError(
            f"the weights of {source} are not finite (NaN or infinite): {_listed(bad)}",
            "the training diverged or the file is damaged; use an earlier checkpoint",
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    safetensors_torch = _import_safetensors()
    from safetensors import SafetensorError

    with open_for_reading(path):  # says what is wrong with a path better than safetensors does
        pass
    try:
        state: dict[str, Tensor] = safetensors_torch.load_file(path)
    except SafetensorError as err:
        raise ArtifactError(
            f"{path} is not a whole safetensors file: {err}", "copy or download it again"
        ) from err
    return state


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    import torch

    with open_for_reading(path) as stream:
        magic = stream.read(len(_ZIP_MAGIC))
        whole = zipfile.is_zipfile(stream) if magic == _ZIP_MAGIC else magic[:1] == _PICKLE_MAGIC
        if not whole:
            raise ArtifactError(
                f"{path} is not a whole torch checkpoint", "copy or download it again"
            )
        stream.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it warns of, it then refuses
                content = torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as err:
            raise ModelError(
                f"{path} holds more than tensors and is not read, since it could run code",
                "save model.state_dict() alone, best as .safetensors",
            ) from err
        except Exception as err:  # what a damaged pickle raises is anybody's guess
            raise ArtifactError(
                f"{path} is damaged: {type(err).__name__} while reading it",
                "copy or download it again",
            ) from err
    return _tensors_of(content, path)


def _tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    import torch

    if isinstance(content, Mapping):
        for key in _WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise ModelError(
            f"{path} is not a state dict: expected tensors by name",
            "save model.state_dict()",
        )
    return dict(content)


def _import_safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as err:
        raise MissingDependencyError(
            f"weights files need torch and safetensors: {err}", 'pip install "edgeattn[export]"'
        ) from err
    return safetensors.torch


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
