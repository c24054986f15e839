"""What the attention operator computes, apart from its tensors.

Plain frozen dataclasses, validated when made. They carry no tensor and import no framework, so
that every layer of the toolkit can speak of the same thing.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from edgeattn.errors import SpecError

Mode = Literal["block", "grid", "neighborhood"]
QkvLayout = Literal["3HD", "H3D"]
PadMode = Literal["mask", "bias_kv"]
ShiftPadOrder = Literal["pad_then_roll", "roll_then_pad"]
QkMode = Literal["dot", "cosine"]

MODES = get_args(Mode)
QKV_LAYOUTS = get_args(QkvLayout)
PAD_MODES = get_args(PadMode)
SHIFT_PAD_ORDERS = get_args(ShiftPadOrder)
QK_MODES = get_args(QkMode)

# The node's attributes in their order, with the kind of each: the one schema that the torch
# operator and the ONNX node share.
ATTRIBUTE_KINDS: dict[str, Literal["int", "float", "int[]"]] = {
    "head_dim": "int",
    "qkv_heads": "int",
    "softmax_scale": "float",
    "qkv_layout": "int",
    "has_bias": "int",
    "pad_mode": "int",
    "shift_pad_order": "int",
    "mask_value": "float",
    "qk_mode": "int",
    "group_head_offset": "int[]",
    "group_num_heads": "int[]",
    "group_window": "int[]",
    "group_shift": "int[]",
    "group_mode": "int[]",
    "group_dilation": "int[]",
    "group_causal": "int[]",
    "qkv_quant_scale": "float",
    "out_quant_scale": "float",
}


def _require(condition: bool, message: str, hint: str = "") -> None:
    if not condition:
        raise SpecError(message, hint)


def _as_int(value: Any) -> int | None:
    """Turn an integer of any library into Python's; `None` for anything else, booleans too."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _integer(name: str, value: Any, minimum: int) -> int:
    number = _as_int(value)
    if number is None or number < minimum:
        raise SpecError(f"{name} is {value!r}; expected an integer of at least {minimum}")
    return number


def _pair(name: str, value: Any, minimum: int) -> tuple[int, int]:
    items = tuple(value) if isinstance(value, Sequence) else (value, value)
    pair = [number for v in items if (number := _as_int(v)) is not None and number >= minimum]
    _require(
        len(items) == len(pair) == 2,
        f"{name} is {value!r}; expected two integers (rows, cols), each at least {minimum}",
    )
    return pair[0], pair[1]


def _finite(name: str, value: Any) -> float:
    number = float(value) if isinstance(value, Real) else math.nan
    if math.isfinite(number) and number >= 0:
        return number
    raise SpecError(f"{name} is {value!r}; expected 0 or a positive number")


@dataclass(frozen=True)
class HeadGroup:
    """Consecutive heads that attend through windows of one size.

    Args:
        num_heads: Heads in the group.
        window_size: `(rows, cols)` in tokens; 0 stands for the whole axis. One integer means a
            square.
        shift_size: `(rows, cols)`, at least 0 and below the window; block mode only.
        head_offset: First head of the group among the `qkv_heads`; ranges of groups may overlap.
        mode: `block` (Swin), `grid` (MaxViT) or `neighborhood` (NAT, sliding windows).
        dilation: `(rows, cols)` stride between neighbours; neighborhood mode only.
        causal: Keys end at the query; neighborhood mode on 1-D sequences (H = 1) only.

    Raises:
        SpecError: If a value is out of range or does not go with the mode.
    """

    num_heads: int
    window_size: tuple[int, int]
    shift_size: tuple[int, int] = (0, 0)
    head_offset: int = 0
    mode: Mode = "block"
    dilation: tuple[int, int] = (1, 1)
    causal: bool = False

    def __post_init__(self) -> None:
        """Normalise single integers to pairs and check every value."""
        object.__setattr__(self, "window_size", _pair("window_size", self.window_size, 0))
        object.__setattr__(self, "shift_size", _pair("shift_size", self.shift_size, 0))
        object.__setattr__(self, "dilation", _pair("dilation", self.dilation, 1))
        _require(self.mode in MODES, f"mode is {self.mode!r}; expected one of {', '.join(MODES)}")
        object.__setattr__(self, "num_heads", _integer("num_heads", self.num_heads, 1))
        object.__setattr__(self, "head_offset", _integer("head_offset", self.head_offset, 0))
        for window, shift in zip(self.window_size, self.shift_size, strict=True):
            _require(
                shift == 0 or shift < window,
                f"shift_size {self.shift_size} is not below window_size {self.window_size}",
                "a window that spans the whole axis (0) has no shift",
            )
        if self.mode != "block":
            _require(self.shift_size == (0, 0), f"shift_size goes with block mode, not {self.mode}")
        if self.mode != "neighborhood":
            _require(
                self.dilation == (1, 1) and not self.causal,
                f"dilation and causal go with neighborhood mode, not {self.mode}",
            )
        if self.causal:
            _require(
                self.window_size[0] in (0, 1) and self.dilation[0] == 1,
                f"a causal group works on sequences (H = 1), not on windows {self.window_size}",
                "use window_size (1, length)",
            )

    @property
    def bias_entries(self) -> int:
        """Entries of the group's relative position bias table."""
        rows, cols = self.window_size
        return self.num_heads * (2 * rows - 1) * (2 * cols - 1)


@dataclass(frozen=True)
class AttentionSpec:
    """One `edgeattn::MultiScaleWindowAttention` node, version 1: everything but its tensors.

    Args:
        head_dim: Channels per head, D.
        qkv_heads: Heads in the packed projection, Hd.
        head_groups: The groups, in the order in which their heads are concatenated.
        softmax_scale: Factor of q·k; 0 stands for `head_dim ** -0.5`. Cosine attention uses the
            `logit_scale` input in its place.
        qkv_layout: Order of the packed channels: `3HD` (Swin) or `H3D` (MaxViT).
        has_bias: A relative position bias table is an input.
        pad_mode: Padded keys are left out (`mask`), or attend with the key and value that the
            projection's bias gives them (`bias_kv`, an input).
        shift_pad_order: `pad_then_roll` (torchvision, Hugging Face, mmdet) or `roll_then_pad`
            (timm). They differ when a shifted map is not a multiple of its window.
        mask_value: Added to the logits of tokens that a shift brought together.
        qk_mode: `dot`, or `cosine` (Swin V2; `logit_scale` is an input).
        qkv_quant_scale: Real value of one INT8 step of the input; 0 if it is not INT8.
        out_quant_scale: The same for the output.

    Raises:
        SpecError: If values are out of range or contradict each other.
    """

    head_dim: int
    qkv_heads: int
    head_groups: tuple[HeadGroup, ...]
    softmax_scale: float = 0.0
    qkv_layout: QkvLayout = "3HD"
    has_bias: bool = False
    pad_mode: PadMode = "mask"
    shift_pad_order: ShiftPadOrder = "pad_then_roll"
    mask_value: float = -math.inf
    qk_mode: QkMode = "dot"
    qkv_quant_scale: float = 0.0
    out_quant_scale: float = 0.0

    def __post_init__(self) -> None:
        """Check every value and how they go together."""
        object.__setattr__(self, "head_dim", _integer("head_dim", self.head_dim, 1))
        object.__setattr__(self, "qkv_heads", _integer("qkv_heads", self.qkv_heads, 1))
        _require(
            isinstance(self.head_groups, Sequence)
            and len(self.head_groups) >= 1
            and all(isinstance(group, HeadGroup) for group in self.head_groups),
            f"head_groups is {self.head_groups!r}; expected a sequence of at least one HeadGroup",
        )
        object.__setattr__(self, "head_groups", tuple(self.head_groups))
        for name, choices in (
            ("qkv_layout", QKV_LAYOUTS),
            ("pad_mode", PAD_MODES),
            ("shift_pad_order", SHIFT_PAD_ORDERS),
            ("qk_mode", QK_MODES),
        ):
            value = getattr(self, name)
            _require(value in choices, f"{name} is {value!r}; expected {' or '.join(choices)}")
        for name in ("softmax_scale", "qkv_quant_scale", "out_quant_scale"):
            object.__setattr__(self, name, _finite(name, getattr(self, name)))
        _require(
            isinstance(self.mask_value, Real) and self.mask_value < 0,
            f"mask_value is {self.mask_value!r}; expected a number below 0",
        )
        object.__setattr__(self, "mask_value", float(self.mask_value))
        for group in self.head_groups:
            last = group.head_offset + group.num_heads
            _require(
                last <= self.qkv_heads,
                f"a head group uses heads {group.head_offset} to {last - 1} "
                f"of a projection with {self.qkv_heads}",
            )
            _require(
                not self.has_bias or 0 not in group.window_size,
                f"a bias table needs a fixed window, got {group.window_size}",
                "give the window in tokens, or set has_bias to False",
            )

    @property
    def qkv_channels(self) -> int:
        """Channels of the packed input."""
        return 3 * self.qkv_heads * self.head_dim

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return sum(group.num_heads for group in self.head_groups) * self.head_dim

    @property
    def bias_entries(self) -> int:
        """Entries of the flat bias table input; 0 without one."""
        return sum(group.bias_entries for group in self.head_groups) if self.has_bias else 0

    @property
    def effective_softmax_scale(self) -> float:
        """The factor of q·k with the default filled in."""
        return self.softmax_scale or self.head_dim**-0.5

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the node's inputs in their order: those that the attributes call for."""
        names = ["qkv"]
        if self.has_bias:
            names.append("bias_table")
        if self.pad_mode == "bias_kv":
            names.append("pad_kv")
        if self.qk_mode == "cosine":
            names.append("logit_scale")
        return tuple(names)

    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs beside `qkv`."""
        shapes = {
            "bias_table": (self.bias_entries,),
            "pad_kv": (2 * self.qkv_heads * self.head_dim,),
            "logit_scale": (self.qkv_heads,),
        }
        return {name: shapes[name] for name in self.input_names if name != "qkv"}

    def to_attributes(self) -> dict[str, int | float | list[int]]:
        """Flatten to the node's attributes, in the order of `ATTRIBUTE_KINDS`."""
        groups = self.head_groups
        return {
            "head_dim": self.head_dim,
            "qkv_heads": self.qkv_heads,
            "softmax_scale": self.softmax_scale,
            "qkv_layout": QKV_LAYOUTS.index(self.qkv_layout),
            "has_bias": int(self.has_bias),
            "pad_mode": PAD_MODES.index(self.pad_mode),
            "shift_pad_order": SHIFT_PAD_ORDERS.index(self.shift_pad_order),
            "mask_value": self.mask_value,
            "qk_mode": QK_MODES.index(self.qk_mode),
            "group_head_offset": [g.head_offset for g in groups],
            "group_num_heads": [g.num_heads for g in groups],
            "group_window": [v for g in groups for v in g.window_size],
            "group_shift": [v for g in groups for v in g.shift_size],
            "group_mode": [MODES.index(g.mode) for g in groups],
            "group_dilation": [v for g in groups for v in g.dilation],
            "group_causal": [int(g.causal) for g in groups],
            "qkv_quant_scale": self.qkv_quant_scale,
            "out_quant_scale": self.out_quant_scale,
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> AttentionSpec:
        """Read a spec back from a node's attributes.

        Args:
            attributes: As `to_attributes` gives them; those with a default may be missing.

        Raises:
            SpecError: If one is missing, unknown, of the wrong length or out of range.
        """
        unknown = sorted(attributes.keys() - ATTRIBUTE_KINDS.keys())
        _require(not unknown, f"the attention node has unknown attributes: {', '.join(unknown)}")
        for name in ("head_dim", "qkv_heads", "group_num_heads", "group_window"):
            _require(name in attributes, f"the attention node has no attribute {name}")
        for name, value in attributes.items():
            kind = ATTRIBUTE_KINDS[name]
            _require(
                _is_of_kind(value, kind),
                f"attribute {name} is {value!r}; expected {_KIND_NAMES[kind]}",
            )
        count = len(attributes["group_num_heads"])

        def per_group(name: str, default: int, length: int = 1) -> list[Any]:
            values = attributes.get(name, [default] * (count * length))
            _require(
                len(values) == count * length,
                f"attribute {name} has {len(values)} entries; expected {count * length} "
                f"for {count} head groups",
            )
            return values if length == 1 else list(zip(values[::2], values[1::2], strict=True))

        def choice(name: str, index: int, choices: Sequence[Any]) -> Any:
            _require(
                0 <= index < len(choices), f"{name} is {index}; expected 0 to {len(choices) - 1}"
            )
            return choices[index]

        def chosen(name: str, choices: Sequence[Any]) -> Any:
            return choice(name, attributes.get(name, 0), choices)

        groups = tuple(
            HeadGroup(
                num_heads,
                window,
                shift,
                offset,
                choice("group_mode", mode, MODES),
                dilation,
                choice("group_causal", causal, (False, True)),
            )
            for num_heads, window, shift, offset, mode, dilation, causal in zip(
                per_group("group_num_heads", 1),
                per_group("group_window", 0, 2),
                per_group("group_shift", 0, 2),
                per_group("group_head_offset", 0),
                per_group("group_mode", 0),
                per_group("group_dilation", 1, 2),
                per_group("group_causal", 0),
                strict=True,
            )
        )
        floats = ("softmax_scale", "mask_value", "qkv_quant_scale", "out_quant_scale")
        return cls(
            attributes["head_dim"],
            attributes["qkv_heads"],
            groups,
            qkv_layout=chosen("qkv_layout", QKV_LAYOUTS),
            has_bias=chosen("has_bias", (False, True)),
            pad_mode=chosen("pad_mode", PAD_MODES),
            shift_pad_order=chosen("shift_pad_order", SHIFT_PAD_ORDERS),
            qk_mode=chosen("qk_mode", QK_MODES),
            **{name: attributes[name] for name in floats if name in attributes},
        )


_KIND_NAMES = {"int": "an integer", "float": "a number", "int[]": "a list of integers"}


def _is_of_kind(value: Any, kind: str) -> bool:
    if kind == "int[]":
        return isinstance(value, (list, tuple)) and all(_as_int(v) is not None for v in value)
    return isinstance(value, Real) if kind == "float" else _as_int(value) is not None


def head_groups_from_windows(
    num_heads: int,
    windows: Sequence[int | tuple[int, int]],
    *,
    shifted: bool = False,
    mode: Mode = "block",
) -> tuple[HeadGroup, ...]:
    """Split heads over window sizes, disjoint and as evenly as they go, first groups larger.

    Args:
        num_heads: Heads to share out.
        windows: Window sizes, one per group; at most `num_heads`.
        shifted: Shift each window by half of it (block mode).
        mode: Mode of every group.

    Returns:
        One group per window size: 3 heads over windows 4, 8 give 2 and 1 heads.

    Raises:
        SpecError: If there are more windows than heads, or none.
    """
    num_heads = _integer("num_heads", num_heads, 1)
    _require(
        1 <= len(windows) <= num_heads,
        f"{num_heads} heads cannot be shared out over {len(windows)} windows",
    )
    share, extra = divmod(num_heads, len(windows))
    groups, offset = [], 0
    for g, window in enumerate(windows):
        size = _pair("window_size", window, 0)
        count = share + (g < extra)
        shift = (size[0] // 2, size[1] // 2) if shifted else (0, 0)
        groups.append(HeadGroup(count, size, shift, head_offset=offset, mode=mode))
        offset += count
    return tuple(groups)
