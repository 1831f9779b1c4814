"""Find, measure and ship quantized networks that are fast on your own edge board."""

__version__ = "0.1.0"
