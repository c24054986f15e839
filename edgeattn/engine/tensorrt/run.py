"""A TensorRT engine that is ready to run: an `edgeattn.engine.base.Engine`.

TensorRT and pycuda work in the GPU's primary context, which PyTorch uses too: all three get along
in one process. Calls from several threads are served by as many execution contexts as were asked
for; further callers wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.artifacts import Manifest, open_for_reading
from edgeattn.engine.base import TensorSpec, check_inputs
from edgeattn.engine.tensorrt.buffers import QueryBuffers
from edgeattn.engine.tensorrt.contexts import ContextPool
from edgeattn.engine.tensorrt.cuda_graph import GraphUse
from edgeattn.engine.tensorrt.device import forget_locals, is_integrated, primary_context
from edgeattn.engine.tensorrt.engine_information import engine_information
from edgeattn.engine.tensorrt.execution import Execution
from edgeattn.engine.tensorrt.failures import engine_error, explain_exception
from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.engine.tensorrt.inspector import EngineInfo, parse_engine_info
from edgeattn.engine.tensorrt.io_tensors import check_in_profile, io_tensors, tensor_specs
from edgeattn.engine.tensorrt.layer_times import LayerTime, measure_layers
from edgeattn.engine.tensorrt.log import CapturedLog, make_logger
from edgeattn.engine.tensorrt.plugin_library import load_plugin
from edgeattn.engine.tensorrt.query import TensorRtQuery
from edgeattn.engine.tensorrt.waiting import describe_waiting
from edgeattn.errors import ArtifactError, EngineError

if TYPE_CHECKING:
    import tensorrt


class TensorRtEngine:
    """A plan, deserialized, with its execution contexts.

    A query that is like the one before it is launched as a CUDA graph where that is possible;
    `settings` says whether, and if not, why.

    Args:
        plan: The engine file.
        manifest: Its manifest, which vouches for the file by its hash; one without hashes, of an
            engine just built, vouches for none.
        plugin: Plugin library that the plan needs and does not hold itself.
        device: The GPU.
        contexts: Execution contexts: callers that are served at the same time. Each takes the
            engine's working memory again.
        cuda_graph: Launch queries as CUDA graphs.
        profile_index: Optimization profile of all contexts.
        zero_copy: Let the GPU work in the host's memory, so that nothing is copied; by default on
            an integrated GPU, which has no other memory. It does not cache what it reads there.

    Raises:
        ArtifactError: If the file is missing or not the one that the manifest describes.
        EngineError: If TensorRT refuses the plan, or there is no memory for it.
        MissingDependencyError: If TensorRT or pycuda is not installed.
        PluginError: If the plugin library cannot be loaded.
    """

    def __init__(
        self,
        plan: Path,
        manifest: Manifest,
        *,
        plugin: Path | None = None,
        device: int = 0,
        contexts: int = 1,
        cuda_graph: bool = True,
        profile_index: int = 0,
        zero_copy: bool | None = None,
    ) -> None:
        if contexts < 1:
            raise EngineError(f"contexts is {contexts}; expected at least 1")
        self._plan = plan
        self._manifest = manifest
        self._device = device
        self._profile_index = profile_index
        self._log = CapturedLog()
        self._runtime: tensorrt.Runtime | None = None
        self._engine: tensorrt.ICudaEngine | None = None
        self._pool = ContextPool(())
        self._queries: weakref.WeakSet[TensorRtQuery] = weakref.WeakSet()
        self._closing = threading.Lock()
        self._is_closed = False
        try:
            self._graphs = GraphUse(cuda_graph)
            self._zero_copy = is_integrated(device) if zero_copy is None else zero_copy
            with primary_context(device):
                self._runtime = self._open_runtime(plugin)
                self._engine = self._deserialize(self._runtime, plan)
                self._check_profile(self._engine)
                self._tensors = io_tensors(self._engine)
                self._inputs, self._outputs = tensor_specs(self._tensors, manifest)
                self._settings = self._describe(self._engine, contexts)
                self._pool = ContextPool(self._create_executions(contexts))
                # An engine that is only dropped, or left to the end of the process, frees too.
                weakref.finalize(self, self._pool.close)
        except BaseException as err:
            forget_locals(err)
            with contextlib.suppress(EngineError):  # what failed first counts
                self.close()
            raise

    # Opening

    def _open_runtime(self, plugin: Path | None) -> tensorrt.Runtime:
        trt = import_tensorrt()
        began = self._log.now()
        try:
            runtime = trt.Runtime(make_logger(self._log))
        except TypeError as err:  # "factory function returned nullptr"
            known = explain_exception(err, EngineError, self._log, since=began)
            failure = known or engine_error("TensorRT does not start", self._log, since=began)
            raise failure from err
        if plugin is not None:
            load_plugin(trt.get_plugin_registry(), plugin)
        options = self._manifest.options.get("tensorrt") or {}
        if options.get("dla_core") is not None:
            runtime.DLA_core = options["dla_core"]
        if options.get("version_compatible") or options.get("embed_plugin"):
            # The plan brings code for the processor; its manifest says that we put it there.
            runtime.engine_host_code_allowed = True
        return runtime

    def _deserialize(self, runtime: tensorrt.Runtime, plan: Path) -> tensorrt.ICudaEngine:
        began = self._log.now()
        with _content(plan) as content:
            self._check_hash(plan, content)
            engine = runtime.deserialize_cuda_engine(content)
        self._log.raise_kept()
        if engine is None:
            raise engine_error(f"TensorRT refused the engine {plan}", self._log, since=began)
        return engine

    def _check_hash(self, plan: Path, content: mmap.mmap) -> None:
        """Check what TensorRT is about to read, not what the file held before."""
        files = self._manifest.files
        if files and files.get(plan.name) != hashlib.sha256(content).hexdigest():
            raise ArtifactError(
                f"{plan} is not the file that its manifest describes: their hashes differ",
                "the file is truncated or was replaced; build it again",
            )

    def _check_profile(self, engine: tensorrt.ICudaEngine) -> None:
        count = engine.num_optimization_profiles
        if not 0 <= self._profile_index < count:
            raise EngineError(
                f"profile_index is {self._profile_index}; the engine has {count} optimization "
                f"profile{'s' if count != 1 else ''}",
                f"choose one of 0 to {count - 1}",
            )

    def _create_executions(self, count: int) -> list[Execution]:
        with contextlib.ExitStack() as undo:
            executions = []
            for _ in range(count):
                executions.append(self._create_execution(self._graphs))
                undo.callback(executions[-1].close)
            undo.pop_all()
        return executions

    def _create_execution(self, graphs: GraphUse) -> Execution:
        if self._engine is None:
            raise _closed()
        return Execution(
            self._engine,
            self._tensors,
            self._log,
            device=self._device,
            profile_index=self._profile_index,
            zero_copy=self._zero_copy,
            graphs=graphs,
        )

    def _describe(self, engine: tensorrt.ICudaEngine, contexts: int) -> dict[str, Any]:
        trt = import_tensorrt()
        settings: dict[str, Any] = {
            "engine": "tensorrt",
            "tensorrt": trt.__version__,
            "contexts": contexts,
            "aux_streams": engine.num_aux_streams,
            "zero_copy": self._zero_copy,
            "host_memory": "page-locked and mapped" if self._zero_copy else "page-locked",
            "stream": "non-blocking",
        }
        waiting = describe_waiting(self._device, is_integrated=is_integrated(self._device))
        if waiting:
            settings["wait"] = waiting
        if engine.num_optimization_profiles > 1:
            settings["profile"] = self._profile_index
        return settings

    # What every engine has

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that a query needs."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that a query yields."""
        return self._outputs

    @property
    def manifest(self) -> Manifest:
        """What the engine is and where it comes from."""
        return self._manifest

    @property
    def plan(self) -> Path:
        """The engine file."""
        return self._plan

    @property
    def device(self) -> int:
        """The GPU, as CUDA numbers them."""
        return self._device

    @property
    def settings(self) -> dict[str, Any]:
        """TensorRT's version, contexts, memory and stream of queries, how they are waited for.

        And whether they are launched as a graph; if not although they should, why.
        """
        settings = self._settings | {"cuda_graph": self._graphs.is_on}
        if self._graphs.reason:
            settings["cuda_graph_fallback"] = self._graphs.reason
        return settings

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one query; see `Engine.run`. Waits for a free context."""
        arrays = self._check(inputs)
        with self._pool.lend() as execution, primary_context(self._device):
            execution.query.fill(arrays)
            execution.run(execution.query)
            return execution.query.outputs()

    def bind(self, inputs: Mapping[str, np.ndarray]) -> TensorRtQuery:
        """Fix the inputs of a query; see `Engine.bind`. The query is a `TimedQuery`."""
        arrays = self._check(inputs)
        buffers = QueryBuffers(self._tensors, self._device, mapped=self._zero_copy)
        query = TensorRtQuery(self, self._pool, buffers, self._device)
        try:
            with self._closing:
                if self._is_closed:
                    raise _closed()
                self._queries.add(query)
            query.fill(arrays)
            for _ in range(2):  # its repetition is what records the graph
                query()
        except BaseException:
            query.close()
            raise
        return query

    def layer_times(
        self, inputs: Mapping[str, np.ndarray], iterations: int = 10
    ) -> list[LayerTime]:
        """Measure the layers of a query, in an execution context made for it.

        Args:
            inputs: As for `run`.
            iterations: Number of runs.

        Raises:
            DataError: As `run`.
            EngineError: As `run`; or if there is no memory for one more context.
        """
        if iterations < 1:
            raise EngineError(f"iterations is {iterations}; expected at least 1")
        arrays = self._check(inputs)
        with (
            self._pool.lend(),  # so that closing waits, and nobody's work is in the figures
            contextlib.closing(self._create_execution(GraphUse(wanted=False))) as execution,
            primary_context(self._device),
        ):
            execution.query.fill(arrays)
            return measure_layers(execution, iterations)

    def inspect(self, inputs: Mapping[str, np.ndarray]) -> EngineInfo:
        """Ask TensorRT's inspector for the layers, at the shapes of a query that is not run.

        How much it tells was decided when the engine was built: `profiling_verbosity`.

        Args:
            inputs: As for `run`.

        Raises:
            ArtifactError: If what it tells is in no form that is known.
            DataError: As `run`.
            EngineError: If it tells nothing, or TensorRT refuses the shapes.
        """
        arrays = self._check(inputs)
        is_dynamic = any(-1 in tensor.shape for tensor in self._tensors)
        with self._pool.lend() as execution, primary_context(self._device):
            if self._engine is None:
                raise _closed()
            execution.query.fill(arrays)
            execution.tell(execution.query)
            context = execution.context if is_dynamic else None
            text = engine_information(self._engine, self._log, context)
        return parse_engine_info(text)

    def close(self) -> None:
        """Free everything, once running queries are done. Closing twice is harmless.

        Raises:
            EngineError: If CUDA fails; everything is let go of nevertheless.
        """
        with self._closing, contextlib.ExitStack() as last_first:
            self._is_closed = True
            last_first.callback(self._let_go)
            for query in list(self._queries):
                last_first.callback(query.close)
            last_first.callback(self._pool.close)

    def _let_go(self) -> None:
        if self._runtime is not None:
            with primary_context(self._device):
                self._engine = None  # before the runtime, which holds the plugins' registry
                self._runtime = None

    def __enter__(self) -> TensorRtEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._is_closed:
            raise _closed()
        arrays = check_inputs(self._inputs, inputs)
        check_in_profile(self._tensors, arrays, self._profile_index)
        return arrays


@contextlib.contextmanager
def _content(plan: Path) -> Iterator[mmap.mmap]:
    """Map a file: the system reads it as TensorRT does, and no copy takes a board's memory.

    Raises:
        ArtifactError: If the file is missing or empty.
    """
    with open_for_reading(plan) as stream:
        try:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as err:
            raise ArtifactError(f"the engine {plan} is empty", "build it again") from err
    with content:
        yield content


def _closed() -> EngineError:
    return EngineError("the engine is closed", "load it again")
