"""The walk over a model that swaps the attention it knows, and tells what it left and why."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from edgeattn.errors import EdgeAttnError, ModelError
from edgeattn.models.adapters.registry import adapter_of, class_name
from edgeattn.models.attention import MultiScaleWindowAttention
from edgeattn.spec import AttentionSpec


class PartlyAdaptedWarning(UserWarning):
    """Some attention of a model has an adapter and could not be swapped all the same."""


@dataclass(frozen=True)
class AdaptedAttention:
    """What became of one attention.

    Attributes:
        name: Where the module stands in the model; empty for the model itself.
        kind: Its class, with the module that defines it.
        adapted: Whether ours stands in its place.
        reason: Why it was left alone; empty if it was not.
        specs: What each attention in its place computes; empty if it was left alone.
    """

    name: str
    kind: str
    adapted: bool
    reason: str = ""
    specs: tuple[AttentionSpec, ...] = ()


@dataclass(frozen=True)
class Adaptation:
    """A model after its attention was swapped.

    Attributes:
        module: The model.
        attentions: Each attention that was met, in the model's order.
    """

    module: nn.Module
    attentions: tuple[AdaptedAttention, ...]

    @property
    def adapted(self) -> tuple[AdaptedAttention, ...]:
        """Those that were swapped."""
        return tuple(a for a in self.attentions if a.adapted)

    @property
    def left(self) -> tuple[AdaptedAttention, ...]:
        """Those that were left alone."""
        return tuple(a for a in self.attentions if not a.adapted)

    def __str__(self) -> str:
        """Give one line for the counts and one for each attention."""
        lines = [f"{len(self.adapted)} attentions adapted, {len(self.left)} left"]
        for attention in self.attentions:
            name = attention.name or "(the model)"
            lines.append(f"{name}: {attention.reason or ', '.join(map(_windows, attention.specs))}")
        return "\n".join(lines)


def adapt(module: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Swap the windowed attention of a model from another library for ours, weights kept.

    Swin and Swin V2 of torchvision, timm and Hugging Face, MaxViT of torchvision and timm, and
    Donut-Swin, MaskFormer-Swin and Swin2SR of Hugging Face are known. `register_adapter` of
    `edgeattn.models.adapters` takes others, and `adapt_with_report` tells what became of each.

    The outputs stay equal; dropout inside the attention, which acts in training alone, is gone.

    Args:
        module: The model.
        inplace: Change the model itself; by default a copy is changed.

    Returns:
        The changed model. Where `module` itself is an attention, it is another object even if
        `inplace`.

    Raises:
        ModelError: If nothing in the model can be adapted.
    """
    return adapt_with_report(module, inplace=inplace).module


def adapt_with_report(module: nn.Module, *, inplace: bool = False) -> Adaptation:
    """Swap attention as `adapt` does, and tell of each what became of it.

    Args:
        module: The model.
        inplace: Change the model itself; by default a copy is changed.

    Returns:
        The changed model and the list of its attentions.

    Raises:
        ModelError: If nothing in the model can be adapted.
    """
    walk = _Walk()
    adaptation = Adaptation(
        walk.visit(module if inplace else copy.deepcopy(module), ""), tuple(walk.attentions)
    )
    if not adaptation.adapted:
        raise ModelError(
            f"{type(module).__name__} holds no attention that can be adapted"
            + "".join(f"; {a.name or 'the model'}: {a.reason}" for a in adaptation.left[:2]),
            "register_adapter of edgeattn.models.adapters teaches it a class of yours; attention "
            "in an exported graph is found by `edgeattn fuse`",
        )
    if walk.failed:
        name, reason = walk.failed[0]
        share = f"{len(walk.failed)} of {len(walk.attentions)} attentions"
        warnings.warn(f"not adapted: {share}; {name}: {reason}", PartlyAdaptedWarning, stacklevel=2)
    return adaptation


class _Walk:
    """One pass over a model's modules, each visited once however often it is used."""

    def __init__(self) -> None:
        self.attentions: list[AdaptedAttention] = []
        self.failed: list[tuple[str, str]] = []
        self._results: dict[int, nn.Module] = {}
        self._visited: list[nn.Module] = []  # alive, so that no other module gets one's id

    def visit(self, module: nn.Module, name: str) -> nn.Module:
        """Give what stands in a module's place from now on: itself, with its children visited."""
        if id(module) not in self._results:
            self._visited.append(module)
            self._results[id(module)] = module  # for a module that holds itself
            self._results[id(module)] = self._replaced(module, name)
        return self._results[id(module)]

    def _replaced(self, module: nn.Module, name: str) -> nn.Module:
        if isinstance(module, MultiScaleWindowAttention):
            return module
        kind = class_name(type(module))
        adapter = adapter_of(module)
        if adapter is not None:
            try:
                ours = adapter(module).train(module.training)
            except EdgeAttnError as err:
                self.failed.append((name, err.message))
                self.attentions.append(AdaptedAttention(name, kind, False, err.message))
                return module
            specs = tuple(_specs(ours))
            self.attentions.append(AdaptedAttention(name, kind, True, specs=specs))
            return ours
        known = len(self.attentions)
        for child_name, child in list(module.named_children()):
            new = self.visit(child, f"{name}.{child_name}".lstrip("."))
            if new is not child:
                _replace_child(module, child, new)
        if len(self.attentions) == known and "Attention" in type(module).__name__:
            reason = f"no adapter for the class {kind}"
            self.attentions.append(AdaptedAttention(name, kind, False, reason))
        return module


def _replace_child(module: nn.Module, child: nn.Module, new: nn.Module) -> None:
    """Set a child under each name that it has; `named_children` gives but the first."""
    names = [name for name, other in module._modules.items() if other is child]
    for name in names:
        setattr(module, name, new)


def _specs(module: nn.Module) -> Iterator[AttentionSpec]:
    for part in module.modules():
        if isinstance(part, MultiScaleWindowAttention):
            yield part.spec


def _windows(spec: AttentionSpec) -> str:
    """Describe the windows of an attention: `4 heads, block window 7x7, shift 3x3`."""
    texts = []
    for group in spec.head_groups:
        window, shift = ("x".join(map(str, pair)) for pair in (group.window_size, group.shift_size))
        text = f"{group.num_heads} heads, {group.mode} window {window}"
        texts.append(text + (f", shift {shift}" if any(group.shift_size) else ""))
    return " + ".join(texts)
