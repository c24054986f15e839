"""The plugin library of a build or an engine: found, held against the graph, loaded once.

TensorRT keeps plugins in one registry per process. It refuses to load a library whose plugin is
registered already, without a word on whether that plugin is the same one: here it is known.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.artifacts import sha256_of_file
from edgeattn.engine.tensorrt.lowering import LoweredForTensorRt
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import ArtifactError, BuildError, PluginError
from edgeattn.graph.op import OP_TYPE, PLUGIN_ATTRIBUTES
from edgeattn.graph.preflight import plugin_nodes
from edgeattn.plugin.build import find_plugin_library
from edgeattn.plugin.check import check_library

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)
_lock = threading.Lock()
# The library that this process took the plugin from, and its hash.
_loaded: dict[str, tuple[Path, str]] = {}


def find_for_build(
    lowered: LoweredForTensorRt, version: TensorRtVersion, options: TensorRtOptions
) -> Path | None:
    """Find the library that a graph's attention nodes need, and hold it against them.

    Args:
        lowered: The graph.
        version: The TensorRT that builds.
        options: May name the library.

    Returns:
        The library; `None` if the graph has no attention node.

    Raises:
        ArtifactError: If the library that was named is missing.
        BuildError: If a library shall be embedded, and there is none to embed.
        MissingDependencyError: If pyelftools is not installed.
        PluginError: If there is no library, or it does not fit the graph or this TensorRT.
    """
    path = options.plugin
    if path is not None and not path.is_file():
        raise ArtifactError(f"there is no plugin library {path}", "check the path")
    nodes = plugin_nodes(lowered.model)
    if not nodes:
        if options.embed_plugin:
            raise BuildError(
                "a plugin library was to be embedded, and the graph needs none",
                "leave --embed-plugin out",
            )
        if path is not None:
            _log.warning("the graph has no attention node: it does not need %s", path)
        return None
    path = path or find_plugin_library(version.major)
    if path is None:
        raise PluginError(
            f"the graph has {len(nodes)} attention nodes for the plugin, and no plugin library for "
            f"TensorRT {version.major} and the GPUs of this machine was found",
            "edgeattn plugin build makes one; --attention native builds without it",
        )
    checked = check_library(path, nodes)
    failures = [f"{finding.what}: {finding.detail}" for finding in checked.failures]
    if checked.kind != "plugin":
        failures.insert(0, f"it is no TensorRT plugin but the library of {checked.kind}")
    elif TensorRtVersion.parse(checked.tensorrt).major != version.major:
        failures.insert(0, f"it is for TensorRT {checked.tensorrt}, and {version} builds")
    if failures:
        raise PluginError(
            f"the plugin library {path} does not fit: {'; '.join(failures)}",
            "edgeattn plugin build makes one for this machine; --attention native builds without",
        )
    return path.resolve()


def load_plugin(registry: tensorrt.IPluginRegistry, path: Path) -> None:
    """Give TensorRT a plugin library, unless it has that very library already.

    To be called before a graph with its nodes is parsed, and before an engine with them is
    deserialized.

    Args:
        registry: TensorRT's, as `tensorrt.get_plugin_registry()` gives it.
        path: The library.

    Raises:
        ArtifactError: If the file is missing.
        PluginError: If it cannot be loaded, registers no attention plugin, or another library's
            attention plugin is registered.
    """
    path = path.resolve()
    digest = sha256_of_file(path)
    with _lock:
        if is_registered(registry):
            _check_same(path, digest)
            return
        handle = registry.load_library(str(path))
        if not is_registered(registry):
            raise PluginError(
                f"TensorRT did not load the plugin library {path}: {_reason(path, handle)}",
                "edgeattn plugin check says what is wrong with it",
            )
        _loaded[OP_TYPE] = (path, digest)


def is_registered(registry: tensorrt.IPluginRegistry) -> bool:
    """Tell whether TensorRT has a plugin for attention nodes.

    The list of creators is read: asking for one that is not there makes TensorRT log an error.
    """
    wanted = (OP_TYPE, PLUGIN_ATTRIBUTES["plugin_version"], PLUGIN_ATTRIBUTES["plugin_namespace"])
    creators = registry.all_creators
    if creators is None:  # the bindings met a creator of a kind that they do not know
        return registry.get_creator(*wanted) is not None
    names = ("name", "plugin_version", "plugin_namespace")  # which every class of creators has
    return any(tuple(getattr(each, name) for name in names) == wanted for each in creators)


def _check_same(path: Path, digest: str) -> None:
    loaded, loaded_digest = _loaded.get(OP_TYPE, (None, ""))
    if loaded is None:
        _log.warning(
            "TensorRT had a plugin %s before %s was loaded; the one it had is used", OP_TYPE, path
        )
    elif loaded_digest != digest:
        raise PluginError(
            f"this process has loaded the plugin from {loaded}, and {path} is another library: "
            "TensorRT holds one at a time",
            "use one library, or start a process for each",
        )


def _reason(path: Path, handle: object) -> str:
    """Find out why: TensorRT says no more than that it did not."""
    if handle is not None:
        return f"it registers no plugin {OP_TYPE}"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as err:
        return str(err)
    if not hasattr(library, "getCreators"):
        return "it has no function getCreators"
    return "one of its plugins is registered already, or it refused"
