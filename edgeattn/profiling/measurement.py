"""What was measured: when the parts of each query ran, and what follows from that.

Definitions follow trtexec: latency = host-to-device copy + compute + device-to-host copy of one
query; enqueue time apart; throughput = queries over wall time after the warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeattn.engine.base import QueryTimes


@dataclass(frozen=True)
class Measurement:
    """The timed queries of one loop, in their order; none is dropped.

    Attributes:
        times: When each query ran.
        wall_ns: Wall time of the loop, from the first enqueue to the last completion.
        host_ns: What the caller waited for each query, from the call to its return.
        streams: Queries in flight at the same time, each from a thread of its own.
        settled: Whether the spread of the latencies settled; `None` if that was not asked for.
    """

    times: tuple[QueryTimes, ...]
    wall_ns: int
    host_ns: tuple[int, ...] = ()
    streams: int = 1
    settled: bool | None = None

    @property
    def enqueue_ms(self) -> list[float]:
        """Host time to enqueue each query."""
        return [(t.end_enqueue_ns - t.start_enqueue_ns) / 1e6 for t in self.times]

    @property
    def h2d_ms(self) -> list[float]:
        """Time of each query's copies to the device."""
        return [(t.end_h2d_ns - t.start_h2d_ns) / 1e6 for t in self.times]

    @property
    def compute_ms(self) -> list[float]:
        """Time of each query's computation."""
        return [(t.end_compute_ns - t.start_compute_ns) / 1e6 for t in self.times]

    @property
    def d2h_ms(self) -> list[float]:
        """Time of each query's copies from the device."""
        return [(t.end_d2h_ns - t.start_d2h_ns) / 1e6 for t in self.times]

    @property
    def latency_ms(self) -> list[float]:
        """Copies and computation of each query; what it waited between them does not count."""
        return [latency_ns(t) / 1e6 for t in self.times]

    @property
    def host_ms(self) -> list[float]:
        """What the caller waited for each query, waits and the launch included."""
        return [nanoseconds / 1e6 for nanoseconds in self.host_ns]

    @property
    def window_ns(self) -> tuple[int, int]:
        """From the first enqueue to the last completion, on the clock that a board trace has."""
        return self.times[0].start_enqueue_ns, max(t.end_d2h_ns for t in self.times)

    @property
    def throughput_qps(self) -> float:
        """Queries per second of wall time."""
        return len(self.times) / (self.wall_ns / 1e9)

    def without_copies(self) -> Measurement:
        """Leave the copies out: they become empty intervals at the ends of the computation."""
        times = (
            t._replace(
                start_h2d_ns=t.start_compute_ns,
                end_h2d_ns=t.start_compute_ns,
                start_d2h_ns=t.end_compute_ns,
                end_d2h_ns=t.end_compute_ns,
            )
            for t in self.times
        )
        return replace(self, times=tuple(times))

    def export_times(self) -> list[dict[str, float]]:
        """Give the queries as trtexec's `--exportTimes` does, from the first enqueue on."""
        origin = self.times[0].start_enqueue_ns
        return [
            {
                "startEnqMs": (t.start_enqueue_ns - origin) / 1e6,
                "endEnqMs": (t.end_enqueue_ns - origin) / 1e6,
                "startH2dMs": (t.start_h2d_ns - origin) / 1e6,
                "endH2dMs": (t.end_h2d_ns - origin) / 1e6,
                "startComputeMs": (t.start_compute_ns - origin) / 1e6,
                "endComputeMs": (t.end_compute_ns - origin) / 1e6,
                "startD2hMs": (t.start_d2h_ns - origin) / 1e6,
                "endD2hMs": (t.end_d2h_ns - origin) / 1e6,
                "h2dMs": (t.end_h2d_ns - t.start_h2d_ns) / 1e6,
                "computeMs": (t.end_compute_ns - t.start_compute_ns) / 1e6,
                "d2hMs": (t.end_d2h_ns - t.start_d2h_ns) / 1e6,
                "latencyMs": latency_ns(t) / 1e6,
            }
            for t in self.times
        ]


def latency_ns(t: QueryTimes) -> int:
    """Add up the copies and the computation of a query."""
    copies = t.end_h2d_ns - t.start_h2d_ns + t.end_d2h_ns - t.start_d2h_ns
    return copies + t.end_compute_ns - t.start_compute_ns
