"""Turn a Hub checkpoint into quantized GGUF files in one pass."""
