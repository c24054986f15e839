"""Graph passes: one file, one rewrite."""
