"""Models built on multi-scale windowed self-attention; the only package that needs torch at import."""
