"""Plugin: is there a library for the board, and does it serve the graph's attention?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.deploy.check.subject import Subject
from edgeattn.engine.tensorrt.plan import plugin_need
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import ArtifactError, PluginError
from edgeattn.graph.preflight import plugin_nodes
from edgeattn.plugin.check import LibraryCheck, check_library
from edgeattn.targets import runs_on

# What `plugin check` compares with the machine that it runs on; here the board counts.
_OF_THIS_MACHINE = ("GPU code", "TensorRT")


def check_plugin(subject: Subject) -> Iterator[GraphFinding]:
    """Hold the plugin library against the board and the graph's attention nodes.

    Without a library it is said how to make one. The library's code runs, to ask it about the
    nodes, where it is for this machine's processor.

    Raises:
        MissingDependencyError: If pyelftools is not installed, and there is a library to read.
    """
    if not any(each.way == "plugin" for each in subject.lowered.attention):
        return
    need = plugin_need(subject.where, subject.request.options)
    rebuild = f"build it for the board: {need.build_command}"
    library = subject.request.options.plugin
    if library is None:
        count = sum(each.way == "plugin" for each in subject.lowered.attention)
        yield GraphFinding(
            "note",
            "plugin",
            "",
            f"{count} attention nodes need the plugin library, and none was named",
            f"{need.build_command} makes it; --plugin has it checked, --attention native does "
            "without",
        )
        return
    try:
        checked = check_library(library, plugin_nodes(subject.lowered.model))
    except (ArtifactError, PluginError) as err:
        yield GraphFinding("error", "plugin", str(library), err.message, err.hint or rebuild)
        return
    for reason in (*_against_board(subject, checked), *_against_graph(checked)):
        yield GraphFinding("error", "plugin", Path(library).name, reason, rebuild)


def _against_graph(checked: LibraryCheck) -> Iterator[str]:
    for failure in checked.failures:
        if failure.what not in _OF_THIS_MACHINE:
            yield f"{failure.what}: {failure.detail}"


def _against_board(subject: Subject, checked: LibraryCheck) -> Iterator[str]:
    where = subject.where
    if checked.kind != "plugin":
        yield f"it is no TensorRT plugin but the library of {checked.kind}"
        return
    built_for = TensorRtVersion.parse(checked.tensorrt)
    if built_for.major != where.version.major:
        yield f"it is for TensorRT {built_for.major}, and {where.version} shall load it"
    if where.target and checked.machine != where.target.machine:
        yield f"it is for {checked.machine}, and {where.title} is {where.target.machine}"
    alien = [number for number in where.architectures if not runs_on(checked.architectures, number)]
    if alien:
        missing = ", ".join(f"sm_{number}" for number in alien)
        held = ", ".join(f"sm_{number}" for number in checked.architectures)
        yield f"it holds code of {held}, which does not run on {missing}"
    cuda = int(checked.cuda.partition(".")[0] or 0)
    if where.jetpack and cuda != where.jetpack.cuda_major:
        yield f"CUDA {checked.cuda} built it, and JetPack {where.jetpack.version} has CUDA " + (
            f"{where.jetpack.cuda}"
        )
