"""When the parts of a query ran on the GPU, told in the processor's own time.

CUDA's events are stamped by the GPU, whose clock has no known relation to the processor's; only
differences between events can be read, to half a microsecond. So one event is tied to
`time.perf_counter_ns`, anew in every query: the first one, recorded on an idle stream, is taken to
happen when the processor asks for it. The GPU reaches it some microseconds later, which is the
whole error, and the same one for all parts of a query: their lengths are the GPU's own. Told times
are therefore never late: the last event is told before the moment at which the wait for it
returned. An anchor kept from query to query would not do: elapsed times are 32-bit floats of
milliseconds, which after a minute resolve no more than 4 microseconds.

References:
    cuda.h, cuEventElapsedTime: milliseconds with a resolution of about 0.5 microseconds.
    trtexec's getTrace (sampleInference.cpp): one event and one time of the host are the origin of
    a whole run; parts that a query does not have are empty intervals beside the computation.
"""

from __future__ import annotations

import time
from typing import Any

from edgeattn.engine.base import QueryTimes

# Recorded before the copies in, between them and the computation, before the copies out, at the end
_EVENTS = 4


class EventClock:
    """Events of one stream. To be made and dropped where the primary context is current.

    Args:
        cuda: `pycuda.driver`.
        stream: What the queries run on.
    """

    def __init__(self, cuda: Any, stream: Any) -> None:
        self._stream = stream
        self._events = [cuda.Event() for _ in range(_EVENTS)]
        self._marked = 0
        self._origin_ns = 0
        self._enqueue_ns = (0, 0)

    def begin(self) -> None:
        """Note the beginning of a query, on an idle stream."""
        self._marked = 0
        self._origin_ns = time.perf_counter_ns()
        self.mark()

    def mark(self) -> None:
        """Note, on the stream, that a part has ended and the next begins."""
        self._events[self._marked].record(self._stream)
        self._marked += 1

    def note_enqueue(self, start_ns: int, end_ns: int) -> None:
        """Note when the processor began and ended to enqueue the computation."""
        self._enqueue_ns = (start_ns, end_ns)

    def times(self) -> QueryTimes:
        """Read the times of a query that is done: the stream was waited for."""
        first, *others = self._events
        # From the first event on: rounding cannot make a part end before it begins.
        ends = [self._origin_ns + round(first.time_till(event) * 1e6) for event in others]
        h2d, compute, d2h = ends
        return QueryTimes(*self._enqueue_ns, self._origin_ns, h2d, h2d, compute, compute, d2h)
