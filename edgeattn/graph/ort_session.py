"""Sessions of ONNX Runtime on the CPU: operators of other people, and rewrites that break graphs.

Everything that runs a graph opens it here, with options of its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.errors import ArtifactError, first_line

if TYPE_CHECKING:
    import onnxruntime as ort

LIBRARIES_VARIABLE = "EDGEATTN_ORT_LIBRARIES"

_DISABLED = "optimization.disable_specified_optimizers"

# Rewrites of ONNX Runtime that turn sound graphs into ones that it then refuses, by what it says.
_BREAKING = {
    # It reads through the Cast of a half tensor and leaves the scale in float32 (seen in 1.32).
    "/LayerNormFusion/": ("LayerNormFusionL1", "LayerNormFusionL2"),
    # From opset 21 on it writes a type beside the zero point and forbids that (seen in 1.32).
    "does not match y_zero_point type": ("QDQPropagationTransformer",),
}

_NOT_REGISTERED = re.compile(r"([\w.]+):(\w+)\(-?\d+\) is not a registered function/op")


def open_on_cpu(source: bytes | str | Path, options: ort.SessionOptions) -> ort.InferenceSession:
    """Open a graph, without a rewrite of ONNX Runtime's where that alone makes it unfit.

    Operators are those of ONNX Runtime and of the libraries that `$EDGEATTN_ORT_LIBRARIES` names;
    several are divided as in `$PATH`.

    Args:
        source: The graph, or its file.
        options: Of the session; changed.

    Raises:
        ArtifactError: If a library is missing, or has no operators for ONNX Runtime.
        Exception: What ONNX Runtime raises for a graph that it refuses, of no common class.
    """
    import onnxruntime as ort

    _register_libraries(options)
    for _ in _BREAKING:
        try:
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as err:
            if not _avoid(options, str(err)):
                raise
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def unknown_operator(err: Exception) -> tuple[str, str] | None:
    """Say which operator ONNX Runtime lacks, if that is why it refused a graph, and what to do."""
    found = _NOT_REGISTERED.search(str(err))
    if found is None:
        return None
    return (
        f"ONNX Runtime knows no operator {found[1]}::{found[2]}, which the graph holds",
        f"name the library that has it, made for ONNX Runtime, in ${LIBRARIES_VARIABLE}",
    )


def _register_libraries(options: ort.SessionOptions) -> None:
    for path in filter(None, os.environ.get(LIBRARIES_VARIABLE, "").split(os.pathsep)):
        named = f"${LIBRARIES_VARIABLE} names {path}"
        if not Path(path).is_file():
            raise ArtifactError(f"{named}, and there is no such file", "correct or unset it")
        try:
            options.register_custom_ops_library(path)
        except Exception as err:  # onnxruntime's errors share no class
            raise ArtifactError(
                f"{named}, which is no library of operators for ONNX Runtime: {first_line(err)}",
                "correct or unset it",
            ) from err


def _avoid(options: ort.SessionOptions, refusal: str) -> bool:
    """Switch off the rewrite that a refusal names; tell whether it names one that is on."""
    try:
        disabled = options.get_session_config_entry(_DISABLED).split(";")
    except Exception:  # nothing is switched off yet
        disabled = []
    named = [name for mark, names in _BREAKING.items() if mark in refusal for name in names]
    found = [name for name in named if name not in disabled]
    if found:
        import onnxruntime as ort

        ort.set_default_logger_severity(3)  # it warns of entries that are written twice
        options.add_session_config_entry(_DISABLED, ";".join([*disabled, *found]))
        ort.set_default_logger_severity(2)
    return bool(found)
