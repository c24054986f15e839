"""Measuring engines: latency, environment, accuracy against another engine."""
