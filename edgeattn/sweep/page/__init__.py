"""The rows of a sweep as one page that opens from disk, without a network."""

from edgeattn.sweep.page.render import render_sweep, sweep_html

__all__ = ["render_sweep", "sweep_html"]
