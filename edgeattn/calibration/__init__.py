"""Calibration and quantization: observe activations, choose scales, type the graph."""
