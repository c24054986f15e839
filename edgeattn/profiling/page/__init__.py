"""Figures as pages: each is one HTML file that opens from disk, without a network."""

from edgeattn.profiling.page.report import page_html, render_page

__all__ = ["page_html", "render_page"]
