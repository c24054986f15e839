"""Pre-flight a library: will the machine, TensorRT and the graph at hand take it?

Most of it is read from the file. Its code runs only where a graph's nodes or a GPU are asked about,
and never if the caller forbids it.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgeattn.errors import EdgeAttnError, PluginError, SpecError
from edgeattn.plugin.driver import Device, local_architectures, open_device
from edgeattn.plugin.elf import ElfLibrary, read_library
from edgeattn.plugin.kernels import ABI_VERSION, KernelLibrary
from edgeattn.plugin.source import plugin_source, source_sha256
from edgeattn.plugin.toolchain import find_cuda_program
from edgeattn.plugin.trial import Trial, run_trial
from edgeattn.spec import AttentionSpec
from edgeattn.targets import runs_on

Verdict = Literal["ok", "failed", "note", "skipped"]
Kind = Literal["plugin", "kernels", "emulator"]

C_INTERFACE = (
    "edgeattn_abi_version",
    "edgeattn_build_info",
    "edgeattn_check",
    "edgeattn_variants",
    "edgeattn_window_attention",
)
# What TensorRT looks for in a library that it loads at run time.
ENTRY_POINTS = ("getCreators", "setLoggerFinder")
_BUILD_INFO_KEYS = {"version", "kind", "abi_version", "cuda", "architectures", "source_sha256"}
# Every Linux that the library can meet has these.
_SYSTEM_LIBRARIES = re.compile(r"(lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)|ld-linux.*)\.so\.\d+$")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: What it is.
        verdict: `ok`; `failed`; `note`, worth knowing; `skipped`, not looked at, with the reason.
        detail: What was found, in words.
    """

    what: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class PluginNode:
    """An attention node of a graph, as far as a library is concerned.

    Attributes:
        name: Of the node.
        op_type: What TensorRT looks the plugin up by.
        version: Its attribute `plugin_version`.
        namespace: Its attribute `plugin_namespace`.
        spec: What it computes; `None` if it is malformed.
        error: What is wrong with it then.
        in_type: Type of `qkv`, such as float16; empty if the graph does not tell.
        out_type: Type of the output, likewise.
    """

    name: str
    op_type: str
    version: str
    namespace: str
    spec: AttentionSpec | None
    error: str
    in_type: str
    out_type: str


@dataclass(frozen=True)
class LibraryCheck:
    """What a library is, and what speaks against it.

    Attributes:
        file: Its path.
        kind: TensorRT plugin, kernel library or emulator.
        machine: Processor that it is for.
        architectures: SM numbers whose machine code is in it.
        cuda: CUDA that compiled it.
        tensorrt: TensorRT whose headers it was compiled with; empty if it is no plugin.
        version: edgeattn's version.
        abi_version: Version of its C interface.
        loaded: Whether its code ran.
        findings: What was looked at.
    """

    file: str
    kind: Kind
    machine: str
    architectures: tuple[int, ...]
    cuda: str
    tensorrt: str
    version: str
    abi_version: int
    loaded: bool
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> list[Finding]:
        """What speaks against the library."""
        return [finding for finding in self.findings if finding.verdict == "failed"]

    def to_dict(self) -> dict[str, Any]:
        """Turn the check into JSON values."""
        return asdict(self) | {"passed": not self.failures}


def check_library(
    path: Path,
    nodes: Sequence[PluginNode] = (),
    trials: Sequence[Trial] = (),
    *,
    load: bool = True,
    gpus: Sequence[int] | None = None,
    tensorrt: str | None = None,
) -> LibraryCheck:
    """Check a library, and a graph's attention nodes against it.

    Args:
        path: The library.
        nodes: The graph's attention nodes.
        trials: Attentions to run where the library can run: on a GPU, or in the emulator.
        load: Whether its code may run; without it the nodes are compared by name and version only.
        gpus: SM numbers of the GPUs that it is for; by default those of this machine.
        tensorrt: Version of the TensorRT that shall load it; by default the one that is installed.

    Raises:
        ArtifactError: If the file is missing.
        PluginError: If it is no shared library, or none of edgeattn.
        MissingDependencyError: If pyelftools is not installed.
    """
    elf = read_library(path)
    info = elf.build_info
    if info is None or not info.keys() >= _BUILD_INFO_KEYS:
        raise PluginError(
            f"{path} is a shared library, but none of edgeattn: it does not say how it was built",
            "edgeattn plugin build makes one",
        )
    kind: Kind = "kernels"
    if info["kind"] == "emulator":
        kind = "emulator"
    elif elf.plugin_info:
        kind = "plugin"
    findings = [_check_interface(elf, kind), _check_needs(elf), _check_source(info)]
    if kind != "emulator":
        gpus = local_architectures() if gpus is None else gpus
        findings.append(_check_architectures(path, info["architectures"], gpus))
    if elf.plugin_info:
        findings.append(_check_tensorrt(elf.plugin_info["tensorrt"], tensorrt))
    findings += _check_identities(elf, nodes)
    obstacle = _obstacle(elf, info, load=load)
    if nodes or trials:
        if obstacle is None:
            findings += _check_running(path, kind, nodes, trials)
        else:
            findings.append(Finding("nodes against the kernels", "skipped", obstacle))
    return LibraryCheck(
        str(path),
        kind,
        elf.machine,
        tuple(info["architectures"]),
        info["cuda"],
        elf.plugin_info["tensorrt"] if elf.plugin_info else "",
        info["version"],
        info["abi_version"],
        loaded=bool(nodes or trials) and obstacle is None,
        findings=tuple(findings),
    )


def _check_interface(elf: ElfLibrary, kind: Kind) -> Finding:
    """Look for the functions that its callers call."""
    wanted = (*C_INTERFACE, *(ENTRY_POINTS if kind == "plugin" else ()))
    missing = [name for name in wanted if name not in elf.exports]
    version = (elf.build_info or {}).get("abi_version")
    if missing:
        return Finding("interface", "failed", f"it does not export {', '.join(missing)}")
    if version != ABI_VERSION:
        return Finding(
            "interface", "failed", f"C interface version {version}; expected {ABI_VERSION}"
        )
    entries = f", {' and '.join(ENTRY_POINTS)} for TensorRT" if kind == "plugin" else ""
    return Finding("interface", "ok", f"C interface version {version}{entries}")


def _check_needs(elf: ElfLibrary) -> Finding:
    """Look for what would keep it from being loaded: symbols and libraries of others."""
    libraries = [name for name in elf.needed if not _SYSTEM_LIBRARIES.match(name)]
    symbols = sorted(
        f"{name} of {provider}" if provider else name
        for name, provider in elf.undefined.items()
        if not _SYSTEM_LIBRARIES.match(provider)
    )
    if libraries or symbols:
        listed = ", ".join([*libraries, *symbols[:8]])
        more = f" and {len(symbols) - 8} more" if len(symbols) > 8 else ""
        return Finding(
            "dependencies", "failed", f"it needs {listed}{more}: TensorRT may not find them"
        )
    return Finding("dependencies", "ok", f"the system's alone, glibc {elf.glibc} or newer")


def _check_source(info: dict[str, Any]) -> Finding:
    """Compare its source with the one that this edgeattn would build."""
    made = f"edgeattn {info['version']}, CUDA {info['cuda'] or 'none'}"
    if info["source_sha256"] == source_sha256(plugin_source()):
        return Finding("source", "ok", f"this edgeattn's ({made})")
    return Finding("source", "note", f"another one than this edgeattn's ({made})")


def _check_architectures(path: Path, told: Sequence[int], gpus: Sequence[int]) -> Finding:
    """Look at the GPUs that it holds machine code for, and at those that it is for."""
    cuobjdump = find_cuda_program("cuobjdump")
    codes, ptx = sorted(told), sorted(told)[-1:]
    detail = "as it says itself"
    if cuobjdump:
        codes, ptx = (_listed_code(cuobjdump, path, option) for option in ("-lelf", "-lptx"))
        detail = "as cuobjdump finds it"
        if codes != sorted(told):
            return Finding(
                "GPU code",
                "failed",
                f"it says {_sms(told)}, and holds machine code of {_sms(codes)}",
            )
    detail = f"machine code of {_sms(codes)}, PTX of {_sms(ptx)}, {detail}"
    alien = [number for number in gpus if not runs_on(told, number)]
    if alien:
        return Finding("GPU code", "failed", f"{detail}: nothing for {_sms(alien)}")
    return Finding("GPU code", "ok", detail)


def _listed_code(cuobjdump: Path, path: Path, option: str) -> list[int]:
    done = subprocess.run([cuobjdump, option, path], capture_output=True, text=True, check=False)
    return sorted({int(number) for number in re.findall(r"\.sm_(\d+)[a-z]?\.", done.stdout)})


def _check_tensorrt(headers: str, wanted: str | None) -> Finding:
    """Compare the TensorRT that it was built for with the one that shall load it."""
    major = headers.partition(".")[0]
    built_for = f"for TensorRT {major} (headers of {headers})"
    loader = f"{wanted} shall load it"
    if wanted is None:
        try:
            wanted = importlib.metadata.version("tensorrt")
        except importlib.metadata.PackageNotFoundError:
            return Finding("TensorRT", "ok", built_for)
        loader = f"{wanted} is installed here"
    same = wanted.partition(".")[0] == major
    return Finding("TensorRT", "ok" if same else "failed", f"{built_for}, {loader}")


def _check_identities(elf: ElfLibrary, nodes: Sequence[PluginNode]) -> list[Finding]:
    """Compare what TensorRT looks the nodes' plugin up by with what the library registers."""
    findings = []
    for node in nodes:
        if node.spec is None:
            findings.append(Finding(f"node {node.name}", "failed", node.error))
        elif elf.plugin_info is not None:
            findings.append(_check_identity(elf.plugin_info, node))
    if nodes and elf.plugin_info is None:
        reason = "this library has no plugin that TensorRT could look up"
        findings.append(Finding("nodes against the plugin", "skipped", reason))
    return findings


def _check_identity(info: Mapping[str, Any], node: PluginNode) -> Finding:
    what = f"node {node.name}"
    asked = (node.op_type, node.version, node.namespace)
    offered = (info["op_type"], info["op_version"], info["namespace"])
    if asked != offered:
        return Finding(what, "failed", f"it asks for {_identity(asked)}, not {_identity(offered)}")
    return Finding(what, "ok", f"TensorRT finds {_identity(offered)}")


def _obstacle(elf: ElfLibrary, info: dict[str, Any], *, load: bool) -> str | None:
    """Tell why the library's code may not or cannot run here."""
    if not load:
        return "the library's code may not run (--no-load)"
    if elf.machine != platform.machine():
        return f"the library is for {elf.machine}, and this machine is {platform.machine()}"
    if info["abi_version"] != ABI_VERSION:
        return f"its C interface has version {info['abi_version']}; expected {ABI_VERSION}"
    return None


def _check_running(
    path: Path, kind: Kind, nodes: Sequence[PluginNode], trials: Sequence[Trial]
) -> list[Finding]:
    """Ask the library itself: which nodes it serves, and what it computes."""
    library = KernelLibrary(path)
    findings = []
    for node in nodes:
        what = f"kernels for {node.name}"
        if node.spec is None:
            continue
        if not node.in_type:
            findings.append(Finding(what, "skipped", "the graph does not tell its input's type"))
            continue
        try:
            library.check(node.spec, node.in_type, node.out_type)
        except SpecError as err:
            findings.append(Finding(what, "failed", err.message))
        else:
            findings.append(Finding(what, "ok", f"{node.in_type} in, {node.out_type} out"))
    if kind == "emulator":
        return findings + [_check_result(library, trial, None) for trial in trials]
    with open_device() as device:
        if device is None:
            reason = "there is no GPU on this machine"
            return [*findings, Finding("results on a GPU", "skipped", reason)]
        return findings + [_check_result(library, trial, device) for trial in trials]


def _check_result(library: KernelLibrary, trial: Trial, device: Device | None) -> Finding:
    what = f"results of {trial.name}"
    try:
        outcomes = run_trial(library, trial, device)
    except EdgeAttnError as err:
        return Finding(what, "failed", err.message)
    worst = max(outcomes, key=lambda outcome: (not outcome.passed, outcome.max_error))
    found = (
        f"largest error {worst.max_error:.2g} of at most {worst.tolerance:.2g} "
        f"(variant {worst.variant} of {len(outcomes)}, {trial.in_type} in, {trial.out_type} out)"
    )
    if worst.captured is False:
        return Finding(what, "failed", f"{found}; a captured graph gives another result")
    captured = ", the same from a captured graph" if worst.captured else ""
    return Finding(what, "ok" if worst.passed else "failed", found + captured)


def _sms(numbers: Sequence[int]) -> str:
    return ", ".join(f"sm_{number}" for number in numbers) or "none"


def _identity(names: tuple[str, str, str]) -> str:
    op_type, version, namespace = names
    return f"{op_type} version {version!r}" + (f" in namespace {namespace!r}" if namespace else "")
