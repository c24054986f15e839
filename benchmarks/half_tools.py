"""Convert a graph to FP16 or BF16 with another tool, in the environment that has it.

    python benchmarks/half_tools.py TOOL fp16|bf16 IN.onnx OUT.onnx [SAMPLE.npz]

The last line on stdout is JSON: `seconds`, or why it failed. The file imports nothing of edgeattn.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import onnx


def onnxconverter_common(source: str, half: str, sample: str | None) -> Any:
    """Convert as onnxconverter-common's manual says."""
    from onnxconverter_common import float16

    _only_fp16(half)
    return float16.convert_float_to_float16(onnx.load(source), keep_io_types=True)


def onnxruntime(source: str, half: str, sample: str | None) -> Any:
    """Convert with the copy of it in onnxruntime.transformers."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    _only_fp16(half)
    return convert_float_to_float16(onnx.load(source), keep_io_types=True)


def autocast(source: str, half: str, sample: str | None) -> Any:
    """Convert with nvidia-modelopt, with a sample for its range check if there is one."""
    from modelopt.onnx.autocast import convert_to_mixed_precision

    return convert_to_mixed_precision(
        onnx_path=source, low_precision_type=half, keep_io_types=True, calibration_data=sample
    )


TOOLS: dict[str, Callable[[str, str, str | None], Any]] = {
    "onnxconverter-common": onnxconverter_common,
    "onnxruntime": onnxruntime,
    "modelopt": autocast,
}


def _only_fp16(half: str) -> None:
    if half != "fp16":
        raise ValueError("it has no BF16")


def main(arguments: list[str]) -> None:
    """Convert and print what came of it."""
    tool, half, source, target, *sample = arguments
    logging.disable(logging.CRITICAL)
    start = time.perf_counter()
    try:
        model = TOOLS[tool](source, half, *(sample or [None]))
        onnx.save(model, target)
        result: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 2)}
    except Exception as err:  # whatever it is, the tool does not convert the graph
        result = {"failed": f"{type(err).__name__}: {str(err).strip()}"[:200]}
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
