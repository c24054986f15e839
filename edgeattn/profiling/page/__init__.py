"""The report as a page: one HTML file that opens from disk, without a network."""

from edgeattn.profiling.page.render import page_html, render_page

__all__ = ["page_html", "render_page"]
