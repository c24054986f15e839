"""Models built on multi-scale windowed self-attention; the one package that imports torch."""
