"""Memory for outputs whose sizes depend on the data: TensorRT asks for it in the midst of a run.

Where an output's shape has a free size although all inputs are known, no buffer can be made ready.
TensorRT then asks an IOutputAllocator for as much as it needs, and tells it the shape before
`execute_async_v3` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgeattn.engine.tensorrt.imports import import_tensorrt

if TYPE_CHECKING:
    import tensorrt


class OutputSink:
    """What TensorRT's allocator is asked, in Python's terms and without TensorRT.

    Attributes:
        shapes: Shape of each output that TensorRT has told since `begin`.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._reserve: Callable[[str, int], int] | None = None
        self._error: BaseException | None = None

    def begin(self, reserve: Callable[[str, int], int]) -> None:
        """Get ready for a run.

        Args:
            reserve: Gives the address of memory of a name and a size in bytes.
        """
        self.shapes.clear()
        self._reserve = reserve
        self._error = None

    def allocate(self, name: str, size: int) -> int:
        """Give memory; 0, after which TensorRT gives up, if there is none."""
        try:
            if self._reserve is None:
                raise RuntimeError("TensorRT asked for memory outside a run")
            return self._reserve(name, size)
        except BaseException as err:  # the bindings would print it and go on
            self._error = self._error or err
            return 0

    def notify(self, name: str, shape: Sequence[int]) -> None:
        """Note the shape of an output."""
        self.shapes[name] = tuple(int(size) for size in shape)

    def raise_kept(self) -> None:
        """Raise what went wrong in a call from TensorRT."""
        if self._error is not None:
            raise self._error


def make_output_allocator(sink: OutputSink) -> tensorrt.IOutputAllocator:
    """Make an object of TensorRT's class that asks a sink. The context keeps no hold of it.

    Raises:
        MissingDependencyError: If TensorRT is not installed.
    """
    trt = import_tensorrt()

    class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return sink.allocate(tensor_name, size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            sink.notify(tensor_name, shape)

    return OutputAllocator()
