"""Call a Python subclass of TensorRT's classes as TensorRT does: through C++'s virtual functions.

NVIDIA's bindings carry such a call over to Python. A pybind11 object holds the address of its C++
object after Python's own header of two words, and a C++ object that of its table of virtual
functions (Itanium C++ ABI: in the order in which the header declares them). For use where
`import tensorrt` gives the real bindings.
"""

from __future__ import annotations

import ctypes
from typing import Any

# What a class that derives from IVersionedInterface has first: getAPILanguage, getInterfaceInfo and
# its two destructors (NvInferRuntimeBase.h).
VERSIONED = 4


class Virtual:
    """The C++ object behind a Python one, which it keeps alive.

    Args:
        wrapped: Instance of a Python subclass of a class of the bindings.
    """

    def __init__(self, wrapped: object) -> None:
        self._wrapped = wrapped
        self._this = ctypes.c_void_p.from_address(id(wrapped) + 2 * ctypes.sizeof(ctypes.c_void_p))

    def call(self, slot: int, result: Any, *arguments: Any) -> Any:
        """Call a virtual function.

        Args:
            slot: Its place in the table, from 0.
            result: Type of ctypes of what it returns; `None` for void.
            arguments: Values of ctypes' types.
        """
        table = ctypes.c_void_p.from_address(self._this.value or 0).value or 0
        function = ctypes.c_void_p.from_address(table + slot * ctypes.sizeof(ctypes.c_void_p))
        kinds = [type(argument) for argument in arguments]
        return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *kinds)(function.value)(
            self._this, *arguments
        )
