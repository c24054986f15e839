"""The errors of the toolkit: what is wrong, the value got, the value expected, and what to do.

Every error that a user can cause derives from `EdgeAttnError`; the command line turns it into one
sentence, a hint and exit code 1. Anything else that escapes is a bug.
"""

from __future__ import annotations


class EdgeAttnError(Exception):
    """A failure the user can act on.

    Args:
        message: One sentence: what is wrong, what was found, what was expected.
        hint: What to do about it; empty if there is nothing to suggest.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SpecError(EdgeAttnError, ValueError):
    """An attention or input specification that contradicts itself or the tensors it meets."""


class ModelError(EdgeAttnError, ValueError):
    """A model that cannot be found, built or filled with the given weights."""


class ArtifactError(EdgeAttnError, ValueError):
    """A file that is missing, truncated, of another format version or of another parent."""


class GraphError(EdgeAttnError, ValueError):
    """An ONNX graph that cannot be read, exported or rewritten."""


class DataError(EdgeAttnError, ValueError):
    """Input data that cannot be read or does not fit the graph's inputs."""


class TableError(EdgeAttnError, ValueError):
    """A calibration table that is malformed or belongs to another graph."""


class AccuracyError(EdgeAttnError, RuntimeError):
    """An accuracy that was asked for and not reached; the best that was found is written."""


class BuildError(EdgeAttnError, RuntimeError):
    """An engine that could not be built as asked."""


class EngineError(EdgeAttnError, RuntimeError):
    """An engine that could not be loaded or run."""


class StaleEngineError(EngineError):
    """An engine that was built for another TensorRT, GPU, system or plugin: to be built again."""


class TargetError(EdgeAttnError, ValueError):
    """A board, a JetPack or a GPU architecture that is not known, or that do not go together."""


class BoardError(EdgeAttnError, RuntimeError):
    """Boards or workers that are missing; sensors or clocks that cannot be read or set."""


class DeployError(EdgeAttnError, RuntimeError):
    """A board that cannot be reached, or a deployment that failed there."""


class PluginError(EdgeAttnError, RuntimeError):
    """A kernel library or plugin that cannot be built, loaded or run."""


class MissingDependencyError(EdgeAttnError, ImportError):
    """An optional package that this verb needs is not installed."""


def first_line(err: BaseException) -> str:
    """Give the kind and the first line of what an error says, or the one that it was raised from.

    Libraries wrap errors in errors and print pages; the root's first line is what went wrong.
    """
    root = root_of(err)
    lines = str(root).strip().splitlines()
    return f"{type(root).__name__}: {lines[0]}" if lines else type(root).__name__


def root_of(err: BaseException) -> BaseException:
    """Follow an error to the one that all others were raised from."""
    while err.__cause__ is not None:
        err = err.__cause__
    return err
