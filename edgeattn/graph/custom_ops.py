"""Other people's operators in ONNX Runtime: libraries of them, and what is said where none is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.errors import ArtifactError, first_line

if TYPE_CHECKING:
    import onnxruntime as ort

LIBRARIES_VARIABLE = "EDGEATTN_ORT_LIBRARIES"

_NOT_REGISTERED = re.compile(r"([\w.]+):(\w+)\(-?\d+\) is not a registered function/op")


def register_custom_ops(options: ort.SessionOptions) -> None:
    """Let a session know the operators of the libraries that `$EDGEATTN_ORT_LIBRARIES` names.

    Several are divided as in `$PATH`.

    Raises:
        ArtifactError: If one is missing, or no library of operators for ONNX Runtime.
    """
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


def unknown_operator(err: Exception) -> tuple[str, str] | None:
    """Say which operator ONNX Runtime lacks, if that is why it refused a graph, and what to do."""
    found = _NOT_REGISTERED.search(str(err))
    if found is None:
        return None
    return (
        f"ONNX Runtime knows no operator {found[1]}::{found[2]}, which the graph holds",
        f"name the library that has it, made for ONNX Runtime, in ${LIBRARIES_VARIABLE}",
    )
