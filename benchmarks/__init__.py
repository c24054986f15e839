"""Benchmarks: one script per question, each against a named peer, rows kept as JSONL."""
