"""Quantization to integer codes: schemes, arrays of codes with their scales, products of them, what they cost."""
