"""ONNX Runtime sessions on the CPU: the options chosen, each with its reason, and opening them."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from edgeattn.errors import EdgeAttnError, EngineError
from edgeattn.graph.ort_session import open_on_cpu, unknown_operator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnxruntime as ort


Int8Arithmetic = Literal["fused", "fused-precise", "unfused"]


def session_options(
    threads: int, int8_arithmetic: Int8Arithmetic | None = None
) -> ort.SessionOptions:
    """Choose the options of a session.

    Denormals are left alone: ONNX Runtime's `session.set_denormal_as_zero` also switches the
    calling thread of the first session of a process, so that the caller's own arithmetic flushes
    subnormal numbers from then on, and no later session can undo or repeat it.

    Args:
        threads: Threads that share the work of one node, the caller's among them.
        int8_arithmetic: How nodes behind DequantizeLinear are computed, in a graph that has any.
            `fused`: integer kernels, the fastest. `fused-precise`: integer kernels without
            saturation; `unfused`: exactly as the graph says, in float.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # One query at a time, node after node, each spread over all threads: the lowest latency.
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Failures arrive as exceptions; the log would print each a second time, on stderr.
    options.log_severity_level = 4
    for key, value in {
        # Between the nodes of a query workers spin rather than sleep: waking them costs more
        # than many a node takes (measured: up to a fifth of the latency) ...
        "session.intra_op.allow_spinning": "1",
        # ... but between queries they stop at once, for the core they burn belongs to the
        # caller: another session measured right after this one took twice its time.
        "session.force_spinning_stop": "1",
        # On x86 without VNNI, u8 by s8 products are added in pairs that saturate at 16 bits; with
        # weights turned to u8 they are not. Not for all: with VNNI it took 1.7 times as long.
        "session.x64quantprecision": "1" if int8_arithmetic == "fused-precise" else "0",
        "session.disable_quant_qdq": "1" if int8_arithmetic == "unfused" else "0",
    }.items():
        options.add_session_config_entry(key, value)
    if int8_arithmetic in ("fused", "fused-precise"):
        # Otherwise a linear layer becomes a Gemm before the integer fusions look for a MatMul:
        # it then computes in float, and dequantizes its weights in every run.
        options.add_session_config_entry(
            "optimization.disable_specified_optimizers", "MatMulAddFusion"
        )
    return options


def open_session(
    data: bytes, options: ort.SessionOptions, weights_folder: Path | None = None
) -> ort.InferenceSession:
    """Open a graph.

    Args:
        data: The ONNX graph.
        options: Options of the session.
        weights_folder: Where the graph's external weights lie, if it has any; they are read now.

    Raises:
        ArtifactError: If a library of custom operators that the user names cannot be loaded.
        EngineError: If ONNX Runtime refuses the graph.
    """
    if weights_folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(weights_folder.absolute())
        )
    with runtime_errors("ONNX Runtime refuses the graph"):
        return open_on_cpu(data, options)


@contextmanager
def runtime_errors(what: str) -> Iterator[None]:
    """Turn whatever ONNX Runtime raises, which derives from no common class, into EngineError."""
    try:
        yield
    except EdgeAttnError:
        raise
    except Exception as err:
        unknown = unknown_operator(err)
        raise EngineError(*(unknown or (f"{what}: {_without_prefix(err)}",))) from err


def _without_prefix(err: Exception) -> str:
    """Drop ONNX Runtime's prefix, `[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : `."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(err).strip())
    return " ".join(text.split()) or type(err).__name__
