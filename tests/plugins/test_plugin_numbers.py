"""Attention through the plugin's `enqueue`, held against exact attention.

The kernels have tests of their own over far more cases; here the way through the plugin is judged:
which tensors, sizes and attributes reach the kernels. On a GPU every call is repeated from a
captured graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.plugin.kernels import KernelLibrary
from edgeattn.spec import AttentionSpec
from tests.plugins.kernel_cases import case_of as case_named
from tests.plugins.kernel_device import DTYPES, Device
from tests.plugins.kernel_judge import FORMS, judge
from tests.plugins.plugin_builds import build_cuda_host, newest_headers
from tests.plugins.plugin_host import Host, case_of

# Every mode, both layouts, each input alone and all together, one group and many.
CASES = (
    "one_token_in_a_window_of_pads",
    "odd_map_mask_pad_then_roll",
    "odd_map_bias_kv_roll_then_pad",
    "stripes_over_whole_axes",
    "grid_padded",
    "neighborhood_dilated",
    "causal_dilated",
    "eight_groups_of_all_modes",
    "packed_by_head_padded",
    "softmax_scale_of_one",
    "finite_mask_padded",
    "cosine",
    "cosine_padded",
    "swin_v2_at_its_clamp",
    "many_images",
    "window_8_dim_32",
)


class PluginDevice(Device):
    """What runs the kernels is the plugin: an engine for each variant.

    Args:
        library: The same kernels, to ask about variants.
        host: The plugin in its driver.
        folder: For the files of a run.
    """

    def __init__(self, library: KernelLibrary, host: Host, folder: Path) -> None:
        super().__init__(library)
        self.host = host
        self.folder = folder
        self._key: Sequence[Any] = ()
        self._outputs: dict[int, np.ndarray] = {}

    def run(
        self,
        spec: AttentionSpec,
        tensors: dict[str, np.ndarray],
        out_type: str,
        variant: int = 0,
        seed: int = 0,
    ) -> np.ndarray:
        """Give the output of one variant; all of them run at the first call."""
        qkv = tensors["qkv"]
        key = (spec, out_type, qkv.shape, qkv.tobytes())
        if self._key != key:
            shape = (*qkv.shape[:3], spec.out_channels)
            case = case_of(spec, qkv.dtype.name, tensors, all_tactics=True)
            self._outputs = self.host.outputs(case, self.folder, shape, DTYPES[out_type])
            self._key = key
        is_only_one = len(self._outputs) == 1  # then there are no tactics
        return self._outputs[0 if is_only_one else variant]


@pytest.fixture(scope="session")
def cuda_plugin() -> Host:
    from edgeattn.plugin.build import build_plugin

    headers = newest_headers()
    library = build_plugin(tensorrt_include=headers).plugin
    assert library is not None
    return build_cuda_host(headers, library)


@pytest.fixture(params=["emulator", pytest.param("cuda", marks=pytest.mark.gpu)])
def plugin_device(request: pytest.FixtureRequest, tmp_path: Path) -> PluginDevice:
    if request.param == "emulator":
        library = request.getfixturevalue("emulator")
        return PluginDevice(library, request.getfixturevalue("plugin"), tmp_path)
    host = request.getfixturevalue("cuda_plugin")
    return PluginDevice(KernelLibrary(host.library), host, tmp_path)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_every_tactic_computes_exact_attention(
    name: str, form: str, plugin_device: PluginDevice
) -> None:
    judge(plugin_device, case_named(name, FORMS[form].in_type), FORMS[form])
