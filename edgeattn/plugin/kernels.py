"""The C interface of the attention kernels in Python: ctypes alone, no framework.

One class serves the CUDA libraries, where tensors are device addresses, and the CPU emulator, where
they are host addresses and numpy arrays will do. The emulator's own functions are in `Emulator`.

References:
    plugins/include/edgeattn/edgeattn.h, which the structs here repeat field by field.
"""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from edgeattn.errors import PluginError, SpecError
from edgeattn.spec import ATTRIBUTE_KINDS, AttentionSpec

ABI_VERSION = 1
MAX_HEAD_GROUPS = 32
MESSAGE_BYTES = 512

SUCCESS, INVALID_ARGUMENT, EMULATOR_VIOLATION = 0, -1, -2

ElementType = Literal["float32", "float16", "bfloat16", "int8"]
ELEMENT_TYPES = get_args(ElementType)  # in the order of EdgeattnType

# What a tensor's address is aligned to.
ALIGNMENT_BYTES = 16

_C_TYPES: dict[str, Any] = {"int": c_int32, "float": c_float, "int[]": POINTER(c_int32)}


def _attribute_fields() -> list[tuple[str, Any]]:
    """Fields of `EdgeattnAttributes`: the node's attributes, and how many groups there are."""
    fields = []
    for name, kind in ATTRIBUTE_KINDS.items():
        if name == "group_head_offset":
            fields.append(("num_groups", c_int32))
        fields.append((name, _C_TYPES[kind]))
    return fields


class Attributes(ctypes.Structure):
    """`EdgeattnAttributes`."""

    _fields_ = _attribute_fields()


class Problem(ctypes.Structure):
    """`EdgeattnProblem`."""

    _fields_ = [
        ("in_type", c_int32),
        ("out_type", c_int32),
        ("batch", c_int32),
        ("height", c_int32),
        ("width", c_int32),
    ]


class Tensors(ctypes.Structure):
    """`EdgeattnTensors`."""

    _fields_ = [
        ("qkv", c_void_p),
        ("bias_table", c_void_p),
        ("pad_kv", c_void_p),
        ("logit_scale", c_void_p),
        ("out", c_void_p),
    ]


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "edgeattn_abi_version": (c_int32, []),
    "edgeattn_build_info": (c_char_p, []),
    "edgeattn_check": (c_int32, [POINTER(Attributes), c_int32, c_int32, c_char_p, c_size_t]),
    "edgeattn_variants": (
        c_int32,
        [POINTER(Attributes), POINTER(Problem), POINTER(c_int32), c_int32],
    ),
    "edgeattn_window_attention": (
        c_int32,
        [
            POINTER(Attributes),
            POINTER(Problem),
            POINTER(Tensors),
            c_int32,
            c_void_p,
            c_char_p,
            c_size_t,
        ],
    ),
}
_EMULATOR_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "edgeattn_emulator_set_seed": (None, [c_uint64]),
    "edgeattn_emulator_report": (c_int64, [c_char_p, c_size_t]),
    "edgeattn_emulator_statistics": (c_int64, [c_char_p, c_size_t]),
}
_REPORT_BYTES = 1 << 16

_REBUILD = "build it from this checkout: edgeattn plugin build"


class KernelLibrary:
    """A library of attention kernels: of the GPU, of a TensorRT plugin, or the CPU emulator.

    Args:
        path: `libedgeattn_kernels.so`, `libedgeattn_plugin.so` or `libedgeattn_emulator.so`.

    Raises:
        PluginError: If the file is missing, no library, without the kernels' functions, or built
            for another version of the C interface.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise PluginError(f"there is no kernel library {self.path}", _REBUILD)
        try:
            self._library = ctypes.CDLL(str(self.path.resolve()))
        except OSError as err:
            raise PluginError(f"{self.path} cannot be loaded: {err}", _REBUILD) from err
        version = int(self._function("edgeattn_abi_version", _SIGNATURES)())
        if version != ABI_VERSION:
            raise PluginError(
                f"{self.path} has version {version} of the kernels' C interface; "
                f"expected {ABI_VERSION}",
                _REBUILD,
            )
        self._check = self._function("edgeattn_check", _SIGNATURES)
        self._variants = self._function("edgeattn_variants", _SIGNATURES)
        self._window_attention = self._function("edgeattn_window_attention", _SIGNATURES)
        build_info = self._function("edgeattn_build_info", _SIGNATURES)()
        try:
            self._build_info: dict[str, Any] = json.loads(build_info)
        except (TypeError, ValueError) as err:
            raise PluginError(
                f"{self.path} describes itself as {build_info!r}; expected a JSON object", _REBUILD
            ) from err

    def _function(self, name: str, signatures: Mapping[str, tuple[Any, list[Any]]]) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError as err:
            raise PluginError(
                f"{self.path} is no kernel library: it has no function {name}", _REBUILD
            ) from err
        function.restype, function.argtypes = signatures[name]
        return function

    @property
    def build_info(self) -> dict[str, Any]:
        """What the library says of itself: `version`, `kind`, `cuda`, `architectures`, …."""
        return dict(self._build_info)

    @property
    def is_emulator(self) -> bool:
        """Whether tensors are host memory and the kernels run on the CPU."""
        return self._build_info.get("kind") == "emulator"

    def check(self, spec: AttentionSpec, in_type: str, out_type: str) -> None:
        """Ask whether the kernels can serve a spec at all, before any size is known.

        Args:
            spec: What to compute.
            in_type: Type of `qkv`: float32, float16, bfloat16 or int8.
            out_type: Type of the output.

        Raises:
            SpecError: If they cannot; the message is the library's.
        """
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        status = self._check(
            _attributes_of(spec), _type_id(in_type), _type_id(out_type), message, MESSAGE_BYTES
        )
        if status != SUCCESS:
            raise SpecError(_text(message) or f"the kernels refuse the attention: status {status}")

    def variants(
        self, spec: AttentionSpec, in_type: str, out_type: str, shape: tuple[int, int, int]
    ) -> list[int]:
        """List the kernel variants that can serve a problem, the library's own choice first.

        Args:
            spec: What to compute.
            in_type: Type of `qkv`.
            out_type: Type of the output.
            shape: `(B, H, W)`.

        Raises:
            SpecError: If the kernels cannot serve it.
        """
        problem = Problem(_type_id(in_type), _type_id(out_type), *shape)
        attributes = _attributes_of(spec)
        count = int(self._variants(attributes, problem, None, 0))
        if count < 0:
            self.check(spec, in_type, out_type)
            raise SpecError(f"the kernels have no variant for {spec} on a map of {shape}")
        ids = (c_int32 * count)()
        self._variants(attributes, problem, ids, count)
        return list(ids)

    def launch(
        self,
        spec: AttentionSpec,
        *,
        qkv: int,
        out: int,
        bias_table: int = 0,
        pad_kv: int = 0,
        logit_scale: int = 0,
        shape: tuple[int, int, int],
        in_type: str,
        out_type: str,
        variant: int = 0,
        stream: int = 0,
    ) -> None:
        """Enqueue the attention: one kernel launch, no workspace, no synchronisation.

        Args:
            spec: What to compute.
            qkv: Address of `[B, H, W, 3*Hd*D]`, contiguous, aligned to 16 bytes.
            out: Address of `[B, H, W, out_channels]`, likewise.
            bias_table: Address of the float32 table, 0 without one.
            pad_kv: Address of `[2*Hd*D]` float32, 0 without one.
            logit_scale: Address of `[Hd]` float32, 0 without one.
            shape: `(B, H, W)`.
            in_type: Type of `qkv`.
            out_type: Type of `out`.
            variant: One of `variants`, or 0 for the library's choice.
            stream: A `cudaStream_t` of the current context; 0 is the default stream.

        Raises:
            PluginError: If the library refuses the arguments or the launch fails; the message is
                the library's.
        """
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        status = self._window_attention(
            _attributes_of(spec),
            Problem(_type_id(in_type), _type_id(out_type), *shape),
            Tensors(qkv or None, bias_table or None, pad_kv or None, logit_scale or None, out),
            variant,
            stream or None,
            message,
            MESSAGE_BYTES,
        )
        if status != SUCCESS:
            raise PluginError(_text(message) or f"the attention kernel failed: {_status(status)}")

    def run(
        self,
        spec: AttentionSpec,
        tensors: Mapping[str, np.ndarray],
        out_type: str | None = None,
        variant: int = 0,
    ) -> np.ndarray:
        """Compute with numpy arrays; the emulator only.

        Args:
            spec: What to compute.
            tensors: The inputs by name: `qkv` `[B, H, W, 3*Hd*D]`, float32, float16, int8, or
                bfloat16 as `ml_dtypes` has it or as uint16 bit patterns; the others float32.
            out_type: Type of the output; that of `qkv` by default.
            variant: One of `variants`, or 0 for the library's choice.

        Returns:
            `[B, H, W, out_channels]`.

        Raises:
            PluginError: If the library is not the emulator, refuses the arguments, or finds that
                a kernel broke a rule of the hardware.
            SpecError: If a tensor is missing, superfluous or of the wrong shape or type.
        """
        if not self.is_emulator:
            raise PluginError(
                f"{self.path} computes on a GPU, not on numpy arrays", "use launch with addresses"
            )
        in_type = _check_tensors(spec, tensors)
        out_type = out_type or in_type
        qkv = tensors["qkv"]
        dtype = qkv.dtype if out_type == in_type else np.dtype(out_type)
        out = aligned_empty((*qkv.shape[:3], spec.out_channels), dtype)
        inputs = {name: _aligned(tensor) for name, tensor in tensors.items()}
        self.launch(
            spec,
            **{name: array.ctypes.data for name, array in inputs.items()},
            out=out.ctypes.data,
            shape=qkv.shape[:3],
            in_type=in_type,
            out_type=out_type,
            variant=variant,
        )
        return out


class Emulator(KernelLibrary):
    """The kernels on the CPU, with what the emulator saw of them.

    Args:
        path: `libedgeattn_emulator.so`.

    Raises:
        PluginError: If the library is not the emulator, or for the reasons of `KernelLibrary`.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        if not self.is_emulator:
            raise PluginError(
                f"{self.path} is a {self.build_info.get('kind')} library, not the emulator"
            )
        self._set_seed, self._report, self._statistics = (
            self._function(name, _EMULATOR_SIGNATURES) for name in _EMULATOR_SIGNATURES
        )

    def set_seed(self, seed: int) -> None:
        """Choose the order in which threads and CTAs run; 0 is the natural one."""
        self._set_seed(seed)

    def take_report(self) -> tuple[int, str]:
        """Give the number of violations since the last call and a text on the first ones."""
        text = ctypes.create_string_buffer(_REPORT_BYTES)
        count = int(self._report(text, _REPORT_BYTES))
        return count, _text(text)

    def take_statistics(self) -> dict[str, Any]:
        """Give the counters since the last call: instructions, bytes, bank conflicts."""
        text = ctypes.create_string_buffer(_REPORT_BYTES)
        self._statistics(text, _REPORT_BYTES)
        counters: dict[str, Any] = json.loads(text.value)
        return counters


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Allocate a contiguous array at an address that the kernels accept."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[start : start + size].view(dtype).reshape(shape)


def _aligned(array: np.ndarray) -> np.ndarray:
    if array.flags.c_contiguous and array.ctypes.data % ALIGNMENT_BYTES == 0:
        return array
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _check_tensors(spec: AttentionSpec, tensors: Mapping[str, np.ndarray]) -> str:
    """Check the arrays of a call; give the type of `qkv`."""
    if set(tensors) != set(spec.input_names):
        raise SpecError(
            f"the attention has the inputs {', '.join(tensors) or 'none'}; "
            f"expected {', '.join(spec.input_names)}"
        )
    qkv = tensors["qkv"]
    if qkv.ndim != 4 or qkv.shape[3] != spec.qkv_channels:
        raise SpecError(
            f"qkv has the shape {list(qkv.shape)}; expected [B, H, W, {spec.qkv_channels}]"
        )
    for name, shape in spec.input_shapes().items():
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != np.float32:
            raise SpecError(
                f"{name} is {tensor.dtype} of shape {list(tensor.shape)}; "
                f"expected float32 of shape {list(shape)}"
            )
    in_type = "bfloat16" if qkv.dtype == np.uint16 else qkv.dtype.name
    _type_id(in_type)
    return in_type


@functools.lru_cache(maxsize=256)
def _attributes_of(spec: AttentionSpec) -> Attributes:
    """Turn a spec into the C struct; the struct keeps its arrays alive."""
    fields: dict[str, Any] = {"num_groups": len(spec.head_groups)}
    for name, value in spec.to_attributes().items():
        fields[name] = (c_int32 * len(value))(*value) if isinstance(value, list) else value
    return Attributes(**fields)


def _type_id(name: str) -> int:
    if name not in ELEMENT_TYPES:
        raise SpecError(f"the kernels have no type {name}; expected {', '.join(ELEMENT_TYPES)}")
    return ELEMENT_TYPES.index(name)


def _text(message: Any) -> str:
    return str(message.value.decode(errors="replace"))


def _status(status: int) -> str:
    names = {INVALID_ARGUMENT: "invalid argument", EMULATOR_VIOLATION: "emulator violation"}
    return names.get(status, f"CUDA error {status}")
