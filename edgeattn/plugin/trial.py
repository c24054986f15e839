"""Try a kernel library: run attentions with known results, plainly and from a captured graph.

On the GPU for the CUDA libraries, on the CPU for the emulator, which captures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeattn.plugin.driver import Device
from edgeattn.plugin.kernels import KernelLibrary
from edgeattn.spec import AttentionSpec

# Largest error that is no mistake, as a share of the largest expected value: a few roundings of the
# type, the FP16 and BF16 kernels rounding the weights of the softmax too.
TOLERANCES = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
# INT8 output: what lies between two steps may be rounded to either.
INT8_STEPS = 1


@dataclass(frozen=True)
class Trial:
    """An attention whose result is known.

    Attributes:
        name: Of the node.
        spec: What to compute.
        in_type: Type of `qkv`.
        out_type: Type of the output.
        tensors: Inputs by name, already in their types; BF16 as `ml_dtypes` has it.
        expected: `[B, H, W, out_channels]` float32; for INT8 output in integer steps.
    """

    name: str
    spec: AttentionSpec
    in_type: str
    out_type: str
    tensors: Mapping[str, np.ndarray]
    expected: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        variant: The kernel variant.
        max_error: Largest difference from the expected result, in its unit.
        tolerance: Largest difference that is no mistake.
        captured: Whether a graph captured from the same launch gives the same bytes; `None` where
            nothing can be captured.
    """

    variant: int
    max_error: float
    tolerance: float
    captured: bool | None

    @property
    def passed(self) -> bool:
        """Whether the result is right both ways; NaN is not."""
        return self.max_error <= self.tolerance and self.captured is not False


def run_trial(library: KernelLibrary, trial: Trial, device: Device | None) -> list[Outcome]:
    """Run every variant of an attention.

    Args:
        library: The kernels.
        trial: What to run.
        device: The GPU; `None` for the emulator.

    Raises:
        PluginError: If a launch fails, or cannot be captured.
        SpecError: If the library does not serve the attention.
    """
    batch, height, width, _ = trial.expected.shape
    shape = (batch, height, width)
    outcomes = []
    for variant in library.variants(trial.spec, trial.in_type, trial.out_type, shape):
        if device is None:
            found = library.run(trial.spec, trial.tensors, _emulated_type(trial), variant)
            captured = None
        else:
            found, captured = _run_on(device, library, trial, shape, variant)
        outcomes.append(
            Outcome(variant, _max_error(trial, found), _tolerance(trial), captured=captured)
        )
    return outcomes


def _run_on(
    device: Device,
    library: KernelLibrary,
    trial: Trial,
    shape: tuple[int, int, int],
    variant: int,
) -> tuple[np.ndarray, bool]:
    """Run a variant on the GPU, plainly and captured; whether both give the same bytes."""
    results = [np.empty(trial.expected.shape, _dtype(trial)) for _ in range(2)]
    addresses = {name: device.upload(tensor) for name, tensor in trial.tensors.items()}
    untouched = np.full(results[0].nbytes, 0xFF, np.uint8)  # NaN; -1 as INT8
    out = device.upload(untouched)

    def enqueue() -> None:
        library.launch(
            trial.spec,
            **addresses,
            out=out,
            shape=shape,
            in_type=trial.in_type,
            out_type=trial.out_type,
            variant=variant,
            stream=device.stream,
        )

    enqueue()
    device.download(out, results[0])
    device.fill(out, untouched)
    device.run_captured(enqueue)
    device.download(out, results[1])
    return results[0], results[0].tobytes() == results[1].tobytes()


def _emulated_type(trial: Trial) -> str | None:
    return None if trial.out_type == trial.in_type else trial.out_type


def _dtype(trial: Trial) -> np.dtype:
    same = trial.out_type == trial.in_type
    return trial.tensors["qkv"].dtype if same else np.dtype(trial.out_type)


def _max_error(trial: Trial, found: np.ndarray) -> float:
    difference = np.abs(found.astype(np.float64) - trial.expected)
    return float(difference.max(initial=0.0))


def _tolerance(trial: Trial) -> float:
    if trial.out_type == "int8":
        return INT8_STEPS
    largest = float(np.abs(trial.expected).max(initial=0.0))
    return TOLERANCES[trial.out_type] * max(largest, 1e-6)
