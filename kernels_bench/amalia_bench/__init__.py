"""Measure what a machine gives and what a quantization cost."""
