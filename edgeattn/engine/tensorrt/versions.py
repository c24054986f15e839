"""What a version of TensorRT can do: each capability once, with where it is known from.

Nothing else in the package compares version numbers. A name that only some versions have is still
reached by `getattr` where it is used; the properties here are for choosing and for explaining.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.errors import BuildError, SpecError

_FORM = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:\+.*)?")


@dataclass(frozen=True, order=True)
class TensorRtVersion:
    """A version of TensorRT; versions compare in their order.

    References:
        "Wheels" below are NVIDIA's binding wheels 10.0.1 to 11.4.0.106, whose names were listed;
        "headers" are `NvInfer.h` and its neighbours of the releases named.
    """

    major: int
    minor: int
    patch: int = 0
    build: int = 0

    @classmethod
    def parse(cls, text: str) -> TensorRtVersion:
        """Read a version such as `10.3` or `10.3.0.30`; a suffix such as `+cuda12.6` is dropped.

        Raises:
            SpecError: If it is none.
        """
        found = _FORM.fullmatch(text.strip())
        if not found:
            raise SpecError(
                f"{text!r} is no version of TensorRT; expected two to four numbers",
                "write it as 10.3 or 10.3.0.30",
            )
        return cls(*(int(part) for part in found.groups() if part is not None))

    def __str__(self) -> str:
        numbers = [self.major, self.minor, self.patch, self.build]
        while len(numbers) > 2 and not numbers[-1]:
            numbers.pop()
        return ".".join(map(str, numbers))

    def require_supported(self) -> None:
        """Refuse a version that the toolkit has no code for.

        Raises:
            BuildError: If it is older than 10.3 or newer than 11.
        """
        # 10.3 is JetPack 6.1's. Before 10.3 there is no IPluginV3OneBuildV2 (headers 10.3).
        if not self._is_at_least(10, 3) or self.major > 11:
            raise BuildError(
                f"TensorRT {self} is not supported; expected 10.3 to 11.x",
                "JetPack 6.1 has 10.3, JetPack 7.2 has 10.16",
            )

    def _is_at_least(self, major: int, minor: int) -> bool:
        return (self.major, self.minor) >= (major, minor)

    @property
    def has_weak_typing(self) -> bool:
        """Whether networks may leave types to the builder: BuilderFlag.FP16, INT8 and the like.

        Gone with 11.0 (wheels).
        """
        return self.major < 11

    @property
    def has_calibrators(self) -> bool:
        """Whether it calibrates INT8 itself, by IInt8Calibrator. Gone with 11.0 (wheels)."""
        return self.major < 11

    @property
    def has_explicit_batch_flag(self) -> bool:
        """Whether NetworkDefinitionCreationFlag.EXPLICIT_BATCH exists.

        Ignored from 10.0 on (header 10.3), gone with 11.0 (wheels).
        """
        return self.major < 11

    @property
    def is_always_strongly_typed(self) -> bool:
        """Whether STRONGLY_TYPED is on and ignored: from 11.0 (header 11.1).

        The flag itself exists everywhere; before, a network must ask for it.
        """
        return self.major >= 11

    @property
    def wants_constant_scales(self) -> bool:
        """Whether scales of Q/DQ must be build-time constants: headers 10.3, no more in 11.1."""
        return self.major < 11

    @property
    def has_max_num_tactics(self) -> bool:
        """Whether IBuilderConfig.max_num_tactics exists: from 10.4 (wheels)."""
        return self._is_at_least(10, 4)

    @property
    def has_tiling(self) -> bool:
        """Whether IBuilderConfig.tiling_optimization_level exists: from 10.8 (wheels)."""
        return self._is_at_least(10, 8)

    @property
    def has_editable_timing_cache(self) -> bool:
        """Whether ITimingCache.query and BuilderFlag.EDITABLE_TIMING_CACHE exist: 10.8 (wheels)."""
        return self._is_at_least(10, 8)

    @property
    def has_same_compute_capability(self) -> bool:
        """Whether HardwareCompatibilityLevel has SAME_COMPUTE_CAPABILITY: from 10.9 (wheels)."""
        return self._is_at_least(10, 9)

    @property
    def has_attention_operator(self) -> bool:
        """Whether the parser takes ONNX's Attention: from 10.14 (parser's release notes; wheels).

        It becomes IAttention, which runs as one fused kernel or not at all unless it is marked
        decomposable.
        """
        return self._is_at_least(10, 14)

    @property
    def pads_heads(self) -> bool:
        """Whether its own fused attention pads head sizes that are no multiple of 8.

        From 10.14 (release notes of 10.14.1, "Enhanced MHA Fusions").
        """
        return self._is_at_least(10, 14)

    @property
    def has_plugin_override(self) -> bool:
        """Whether OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE exists: from 10.15 (wheels)."""
        return self._is_at_least(10, 15)

    @property
    def has_dla(self) -> bool:
        """Whether it may build for a DLA core: last in 10.7, back in 11.4.1 on AGX Orin alone.

        References:
            NVIDIA, "Migrating TensorRT 10.x to 11.x", Jetson pages of 11.0.0 to 11.4.1.
        """
        return (self.major, self.minor) <= (10, 7) or self >= TensorRtVersion(11, 4, 1)

    @property
    def embeds_plugins(self) -> bool:
        """Whether an engine can carry plugin libraries: IBuilderConfig.plugins_to_serialize.

        In every version from 10.0 (wheels), with version-compatible engines (header 10.3).
        """
        return self.major >= 10


def installed_version() -> TensorRtVersion:
    """Read the version of the TensorRT package that is installed.

    Raises:
        MissingDependencyError: If there is none, or it cannot be imported.
        SpecError: If it calls itself something that is no version.
    """
    trt = import_tensorrt()
    return TensorRtVersion.parse(str(trt.__version__))
