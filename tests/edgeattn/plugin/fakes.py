"""Stand-ins for programs whose answers a test needs to choose; they compile nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


def fake_program(path: Path, body: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


ALL_CODES = "80 86 87 89 90 100 110 120"


def fake_nvcc(root: Path, version: str = "13.0.88", codes: str = ALL_CODES) -> Path:
    """Write a CUDA toolkit whose nvcc answers questions: its version, folder and architectures."""
    short = version.rpartition(".")[0]
    listed = " ".join(f"sm_{code}" for code in codes.split())
    return fake_program(
        root / "bin/nvcc",
        f"""case "$1" in
--version) echo 'Cuda compilation tools, release {short}, V{version}' ;;
--dryrun) echo '#$ TOP={root}/bin/..' >&2 ;;
--list-gpu-code) for code in {listed}; do echo $code; done ;;
*) exit 1 ;;
esac""",
    )


BUILD_INFO: dict[str, Any] = {
    "version": "0.1.0",
    "kind": "cuda",
    "abi_version": 1,
    "cuda": "13.0.88",
    "architectures": [87, 110],
    "source_sha256": "0" * 64,
}
PLUGIN_INFO: dict[str, Any] = {
    "op_type": "MultiScaleWindowAttention",
    "op_version": "1",
    "namespace": "",
    "tensorrt": "10.3.0",
}
C_INTERFACE = "abi_version build_info check variants window_attention"
ENTRY_POINTS = """
extern "C" void* getCreators(int* count) { *count = 0; return nullptr; }
extern "C" void setLoggerFinder(void*) {}
"""


def section(name: str, values: Any) -> str:
    """Write the C++ that puts JSON into a section of its own."""
    text = json.dumps(json.dumps(values) if isinstance(values, dict) else values)
    variable = name.replace(".", "_")
    return f'__attribute__((section("{name}"), used)) static char const {variable}[] = {text};\n'


def functions(names: str = C_INTERFACE) -> str:
    """Write the C interface's functions, which do nothing."""
    return "".join(f'extern "C" int edgeattn_{name}() {{ return 1; }}\n' for name in names.split())


def plugin_source(code: str = "", **changes: Any) -> str:
    """Write a library that says it is a TensorRT plugin."""
    build = {**BUILD_INFO, **{k: v for k, v in changes.items() if k in BUILD_INFO}}
    plugin = {**PLUGIN_INFO, **{k: v for k, v in changes.items() if k in PLUGIN_INFO}}
    infos = section(".edgeattn.build_info", build) + section(".edgeattn.plugin_info", plugin)
    return infos + functions() + ENTRY_POINTS + code


def compile_library(path: Path, code: str, *options: str, compiler: str = "g++") -> Path:
    """Compile C++ to a shared library."""
    source = path.with_suffix(".cpp")
    source.write_text(code)
    command = [compiler, "-std=c++17", "-shared", "-fPIC", str(source), "-o", str(path), *options]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return path
