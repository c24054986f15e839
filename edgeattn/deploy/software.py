"""The software that engines need: versions that do not go together fail late and in riddles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from edgeattn import __version__
from edgeattn.deploy.board import Board
from edgeattn.deploy.findings import Finding
from edgeattn.deploy.machine import Machine
from edgeattn.engine.tensorrt.failure_table import look_up
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import EdgeAttnError
from edgeattn.plugin.build import find_plugin_library
from edgeattn.plugin.check import check_library

LEAST_PYTHON = (3, 10)
_BASE = ("numpy", "onnx", "onnx-ir", "onnxruntime", "pillow", "click", "rich")
_EXTRAS = {"torch": "export models", "onnxscript": "export models", "pyelftools": "check plugins"}
# The first whose bindings read NumPy 2's arrays: those of 10.0 to 10.15 take their strides for
# others and give wrong weights without an error (tried with each version's wheel).
NUMPY_2 = (10, 16)

_IMPORT_TENSORRT = "import tensorrt; print(tensorrt.__version__)"
_IMPORT_PYCUDA = (
    "import json, pycuda.driver as d; d.init();"
    "g = [d.Device(i) for i in range(d.Device.count())];"
    "print(json.dumps({'cuda': d.get_driver_version(), 'gpus': [[x.name(), "
    "*x.compute_capability(), x.get_attribute(d.device_attribute.INTEGRATED)] for x in g]}))"
)
_DRIVER = (
    "from edgeattn.plugin.driver import open_driver as o, local_architectures as a; d = o();"
    "import json; print(json.dumps([d and d.integer('cuDriverGetVersion'), list(a())]))"
)
_LIBRARY = re.compile(r"libnvinfer\.so\.(\d+)(?:\.(\d+))?(?:\.(\d+))?$")
_LDCONFIG = re.compile(r"libnvinfer\.so\S* \(.*\) => (\S+)")


def check_python(machine: Machine, board: Board | None) -> Iterator[Finding]:
    """Look at Python and the packages that are needed everywhere."""
    yield Finding("ok", "edgeattn", __version__)
    here = tuple(int(part) for part in re.findall(r"\d+", machine.python)[:2])
    release = board.release if board else None
    if here < LEAST_PYTHON:
        yield Finding(
            "error",
            "Python",
            f"{machine.python}; edgeattn needs 3.10 or newer",
            "make an environment with a newer Python",
        )
    elif release and machine.python.rpartition(".")[0] != release.python:
        yield Finding(
            "warning",
            "Python",
            f"{machine.python}; the TensorRT of JetPack {release.version} is for {release.python}",
            f"make the environment with python{release.python}: "
            f"python{release.python} -m venv --system-site-packages .venv",
        )
    else:
        yield Finding("ok", "Python", machine.python)
    versions = {name: machine.package(name) for name in _BASE}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield Finding(
            "error",
            "packages",
            f"{', '.join(missing)} is not installed",
            f"pip install {' '.join(missing)}",
        )
    else:
        yield Finding("ok", "packages", ", ".join(f"{n} {v}" for n, v in versions.items()))
    absent = {name: what for name, what in _EXTRAS.items() if machine.package(name) is None}
    if absent:
        uses = "; ".join(f"{name}, to {what}" for name, what in absent.items())
        yield Finding("note", "optional packages", f"not installed: {uses}")


def check_board_software(machine: Machine, board: Board) -> Iterator[Finding]:
    """Look at the board's own release."""
    if not board.l4t:
        yield Finding(
            "note",
            "JetPack",
            f"{board.model}; /etc/nv_tegra_release is not here, as in a container",
            "run it with --runtime nvidia, on an image of the board's own JetPack",
        )
        return
    release = board.release
    named = f"L4T {board.l4t}" + (f", package nvidia-jetpack {board.jetpack}" * bool(board.jetpack))
    if release is None and (board.major < 36 or board.l4t.startswith("36.3")):
        yield Finding(
            "error",
            "JetPack",
            f"{board.model}, {named}: its TensorRT is older than 10.3",
            "flash JetPack 6.1 or newer",
        )
    elif release is None:
        known = "the first that is known is newer" if board.major == 36 else "no release is known"
        yield Finding("note", "JetPack", f"{board.model}, {named}: {known}", "update edgeattn")
    else:
        yield Finding("ok", "JetPack", f"{board.model}, {named}: JetPack {release.version}")
    if board.l4t_package and not board.l4t_package.startswith(board.l4t):
        yield Finding(
            "warning",
            "L4T packages",
            f"nvidia-l4t-core is {board.l4t_package}, and the flashed system is {board.l4t}",
            "finish the update: sudo apt update && sudo apt full-upgrade, then reboot",
        )


def check_tensorrt(machine: Machine, board: Board | None) -> Iterator[Finding]:
    """Look at the driver, TensorRT, pycuda and NumPy, and whether they go together."""
    driver_cuda, architectures = _driver(machine)
    found = machine.probe(_IMPORT_TENSORRT)
    if architectures is None:
        yield Finding(
            "error",
            "driver",
            f"the NVIDIA driver does not start: {driver_cuda}",
            "reboot if it was updated; nvidia-smi and dmesg say more",
        )
    elif not architectures:
        yield Finding("note", "driver", "no NVIDIA GPU: engines run on the CPU")
    else:
        sms = ", ".join(f"sm_{number}" for number in architectures)
        yield Finding("ok", "driver", f"CUDA {driver_cuda}, {sms}")
    if not found.ok:
        yield from _missing_tensorrt(machine, board, found.text, has_gpu=bool(architectures))
        return
    version = TensorRtVersion.parse(found.text)
    try:
        version.require_supported()
    except EdgeAttnError as err:
        yield Finding("error", "TensorRT", err.message, err.hint)
        return
    yield Finding("ok", "TensorRT", found.text)
    yield from _check_numpy(machine, version)
    yield from _check_cuda(machine, board, version, driver_cuda if architectures else "")
    yield from check_loader_path(machine, version)
    if architectures:  # without a GPU nothing of TensorRT runs, whatever else is here
        yield from _check_pycuda(machine)
        yield from check_plugin(version)


def _driver(machine: Machine) -> tuple[str, list[int] | None]:
    """Ask for the driver's CUDA and its GPUs; `None` with a reason if it does not start."""
    probed = machine.probe(_DRIVER)
    if not probed.ok:
        return probed.text, None
    cuda, architectures = json.loads(probed.text)
    return (f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""), architectures


def _missing_tensorrt(
    machine: Machine, board: Board | None, reason: str, *, has_gpu: bool
) -> Iterator[Finding]:
    if "No module named 'tensorrt'" not in reason:
        fix = "its libraries have to be of the same version and on the loader's path"
        fix = next((row.hint for row, _ in look_up(reason)), fix)
        text = f"its Python package is here and cannot be imported: {reason}"
        yield Finding("error", "TensorRT", text, fix)
        return
    system = _system_bindings(machine)
    if system:
        yield Finding(
            "error",
            "TensorRT",
            f"its Python package is in {system}, which this environment does not see",
            "make the environment with: python3 -m venv --system-site-packages .venv",
        )
    elif board or has_gpu:
        yield Finding(
            "error" if board else "warning",
            "TensorRT",
            "not installed: engines can be built for the CPU alone",
            "sudo apt install nvidia-jetpack, or at least python3-libnvinfer"
            if board
            else "pip install tensorrt pycuda",
        )
    else:
        yield Finding("note", "TensorRT", "not installed: engines can be built for the CPU alone")


def _system_bindings(machine: Machine) -> str:
    """Find the bindings that a Debian package installed."""
    for folder in sorted(machine.path("/usr/lib").glob("python3*/dist-packages/tensorrt")):
        return f"/{folder.parent.relative_to(machine.root)}"
    return ""


def _check_numpy(machine: Machine, version: TensorRtVersion) -> Iterator[Finding]:
    numpy = machine.package("numpy") or ""
    if int(numpy.partition(".")[0] or 0) >= 2 and (version.major, version.minor) < NUMPY_2:
        yield Finding(
            "error",
            "NumPy",
            f"NumPy {numpy} with TensorRT {version}: its bindings read NumPy 2's arrays wrongly, "
            "without an error",
            "pip install 'numpy<2'",
        )
    else:
        yield Finding("ok", "NumPy", f"NumPy {numpy} goes with TensorRT {version}")


def _check_cuda(
    machine: Machine, board: Board | None, version: TensorRtVersion, driver_cuda: str
) -> Iterator[Finding]:
    major, source = _tensorrt_cuda(machine, version)
    release = board.release if board else None
    if source.startswith("PyPI") and board and board.major == 36:
        yield Finding(
            "error",
            "TensorRT's package",
            f"{source}: PyPI's wheels for aarch64 are for servers, and JetPack 6 runs its own",
            "pip uninstall tensorrt, and use JetPack's python3-libnvinfer",
        )
    here = TensorRtVersion.parse(release.tensorrt) if release else None
    if release and here and (version.major, version.minor) != (here.major, here.minor):
        yield Finding(
            "note",
            "TensorRT's version",
            f"{version}; JetPack {release.version} comes with {release.tensorrt}",
        )
    if not major or not driver_cuda:
        return
    driver_major = int(driver_cuda.partition(".")[0])
    if driver_major < major:
        yield Finding(
            "error",
            "CUDA",
            f"TensorRT is for CUDA {major} ({source}), and the driver supports {driver_cuda}",
            f"install the TensorRT for CUDA {driver_major}, or a driver for CUDA {major}",
        )
    else:
        yield Finding("ok", "CUDA", f"TensorRT for CUDA {major}, driver for {driver_cuda}")


def _tensorrt_cuda(machine: Machine, version: TensorRtVersion) -> tuple[int, str]:
    """Tell the major version of CUDA that TensorRT was built for, and how it is known; 0 if not."""
    for major in (13, 12):
        for name in (f"tensorrt-cu{major}", f"tensorrt-cu{major}-bindings"):
            if machine.package(name):
                return major, f"PyPI's {name}"
    package = f"libnvinfer{version.major}"
    found = re.search(r"\+cuda(\d+)", machine.debian_package(package) or "")
    return (int(found[1]), f"the package {package}") if found else (0, "")


def _check_pycuda(machine: Machine) -> Iterator[Finding]:
    installed = machine.package("pycuda")
    if installed is None:
        yield Finding(
            "error",
            "pycuda",
            "not installed: TensorRT engines cannot run",
            "PATH=/usr/local/cuda/bin:$PATH pip install pycuda (it compiles, with CUDA's headers)",
        )
        return
    probed = machine.probe(_IMPORT_PYCUDA)
    if not probed.ok:
        yield Finding(
            "error",
            "pycuda",
            f"pycuda {installed} does not start: {probed.text}",
            "it has to be compiled with the CUDA and NumPy that are here: "
            "pip install --force-reinstall --no-cache-dir --no-binary pycuda pycuda",
        )
    else:
        gpus = ", ".join(name for name, *_ in json.loads(probed.text)["gpus"])
        yield Finding("ok", "pycuda", f"{installed}, sees {gpus or 'no GPU'}")
    names = ("cuda-bindings", "cuda-python")
    if not any(machine.package(name) for name in names):
        yield Finding(
            "note",
            "cuda-python",
            "not installed: engines run without CUDA graphs, which costs some µs per layer",
            "pip install cuda-python, of the same major version as CUDA",
        )


def check_loader_path(machine: Machine, version: TensorRtVersion) -> Iterator[Finding]:
    """Look for several TensorRTs where the loader looks: which one it takes is chance."""
    found: dict[Path, str] = {}
    for path in _candidates(machine):
        real = path.resolve()
        if match := _LIBRARY.search(real.name):
            found[real] = ".".join(filter(None, match.groups()))
    ours = f"{version.major}.{version.minor}"
    others = {
        str(path): text
        for path, text in found.items()
        if not (ours + ".").startswith(text + ".") and not (text + ".").startswith(ours + ".")
    }
    if others:
        listed = ", ".join(f"{path} ({text})" for path, text in sorted(others.items()))
        yield Finding(
            "warning",
            "loader path",
            f"another TensorRT than {version} is there too: {listed}",
            "remove it, or take its folder out of LD_LIBRARY_PATH",
        )
    elif found:
        places = ", ".join(sorted({str(path.parent) for path in found}))
        yield Finding("ok", "loader path", f"one TensorRT, in {places}")


def _candidates(machine: Machine) -> Iterator[Path]:
    for folder in machine.environ.get("LD_LIBRARY_PATH", "").split(":"):
        if folder:
            yield from sorted(machine.path(folder).glob("libnvinfer.so*"))
    # Not every user's path has /sbin.
    cache = machine.run("ldconfig", "-p") or machine.run("/sbin/ldconfig", "-p") or ""
    for match in _LDCONFIG.finditer(cache):
        yield machine.path(match[1])


def check_plugin(version: TensorRtVersion) -> Iterator[Finding]:
    """Look for the plugin library, and whether it fits."""
    fix = "edgeattn plugin build makes one for this machine"
    try:
        path = find_plugin_library(version.major)
        checked = check_library(path) if path else None
    except EdgeAttnError as err:
        yield Finding("error", "plugin", err.message, err.hint or fix)
        return
    if checked is None:
        yield Finding(
            "warning",
            "plugin",
            f"no plugin library for TensorRT {version.major} and the GPUs of this machine: "
            "attention runs in TensorRT's own operators",
            fix,
        )
    elif checked.failures:
        failures = "; ".join(f"{f.what}: {f.detail}" for f in checked.failures)
        yield Finding("error", "plugin", f"{checked.file} does not fit: {failures}", fix)
    else:
        yield Finding("ok", "plugin", checked.file)
