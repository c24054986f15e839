"""JetPack: which L4T, TensorRT, CUDA and Python a release has."""

from __future__ import annotations

from dataclasses import dataclass

# OE4T/meta-tegra repackages the releases' Debian packages, one branch or commit for each.
_META_TEGRA = "OE4T/meta-tegra"


@dataclass(frozen=True)
class JetPack:
    """A release of the boards' software.

    Attributes:
        version: Such as `6.2`.
        l4t: Its Linux for Tegra.
        tensorrt: Its TensorRT.
        cuda: Its CUDA, by the version of the runtime.
        python: The Python that its TensorRT is for.
        source: Where these are from.
    """

    version: str
    l4t: str
    tensorrt: str
    cuda: str
    python: str
    source: str

    @property
    def cuda_major(self) -> int:
        """Major version of its CUDA: a library that another one built does not run on it."""
        return int(self.cuda.partition(".")[0])


def _jetpack_6(version: str, l4t: str, place: str) -> JetPack:
    return JetPack(version, l4t, "10.3.0.30", "12.6.68", "3.10", f"{_META_TEGRA}, {place}")


JETPACK_6 = (
    _jetpack_6("6.1", "36.4.0", 'commit "tensorrt: update to 10.3.0 for JetPack 6.1"'),
    _jetpack_6("6.2", "36.4.3", "branch walnascar"),
    _jetpack_6("6.2.1", "36.4.4", "branch whinlatter"),
    _jetpack_6("6.2.2", "36.5.0", "branch scarthgap before 2026-08-12"),
    _jetpack_6("6.2.3", "36.5.2", "branch scarthgap, release notes of 2026-08-14"),
)
JETPACK_7_0 = JetPack(
    *("7.0", "38.2", "10.13.3.9", "13.0.48", "3.12"), f"{_META_TEGRA}, branch master-l4t-r38.2.x"
)
JETPACK_7_1 = JetPack(
    *("7.1", "38.4", "10.13.3.9", "13.0.48", "3.12"), f"{_META_TEGRA}, branch master-l4t-r38.4.x"
)
JETPACK_7_2 = JetPack(
    *("7.2", "39.2.0", "10.16.2.10", "13.2.75", "3.12"),
    f"{_META_TEGRA}, branch master, docs/release-notes/JetPack-7.2",
)
JETPACK_7_2_1 = JetPack(
    *("7.2.1", "39.2.1", "10.16.2.10", "13.2.86", "3.12"),
    f"{_META_TEGRA}, commit 2765cbcb of 2026-08-12",
)

# Named by documents that say no more of them.
NAMED_ONLY = {
    "7.2.2": "NVIDIA's migration page for TensorRT 11.4.1 names it as the least release that this "
    "TensorRT runs on, and no source says what comes with it"
}
