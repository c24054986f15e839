"""The board during a measurement: clocks, temperatures, watts, throttling; energy per query."""
