"""Engines: build a plan from a typed graph, load it, run it."""
