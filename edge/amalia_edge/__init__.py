"""Run a quantized language model on a machine that people own: a GGUF file in, tokens out."""

__version__ = "0.1.0"
