"""Attention that other people's graphs write out, found by what it computes and not by spelling."""
