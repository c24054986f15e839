"""Plugin: is there a library for the board, and does it serve the graph's attention?"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.deploy.check.findings import GraphFinding
from edgeattn.deploy.check.subject import Subject
from edgeattn.engine.tensorrt.destination import Destination
from edgeattn.engine.tensorrt.plan import plugin_need
from edgeattn.errors import ArtifactError, PluginError
from edgeattn.graph.preflight import plugin_nodes
from edgeattn.plugin.check import LibraryCheck, check_library


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
    where = subject.where
    try:
        checked = check_library(
            library,
            plugin_nodes(subject.lowered.model),
            gpus=where.architectures,
            tensorrt=str(where.version),
        )
    except (ArtifactError, PluginError) as err:
        yield GraphFinding("error", "plugin", str(library), err.message, err.hint or rebuild)
        return
    reasons = [f"{failure.what}: {failure.detail}" for failure in checked.failures]
    for reason in (*_against_board(where, checked), *reasons):
        yield GraphFinding("error", "plugin", library.name, reason, rebuild)


def _against_board(where: Destination, checked: LibraryCheck) -> Iterator[str]:
    """Compare what a library is for with the board."""
    if checked.kind != "plugin":
        yield f"it is no TensorRT plugin but the library of {checked.kind}"
    if where.target and checked.machine != where.target.machine:
        yield f"it is for {checked.machine}, and {where.title} is {where.target.machine}"
    cuda = int(checked.cuda.partition(".")[0] or 0)
    if where.jetpack and cuda != where.jetpack.cuda_major:
        release = f"JetPack {where.jetpack.version} has CUDA {where.jetpack.cuda}"
        yield f"it was built with CUDA {checked.cuda or 'none'}, and {release}"
