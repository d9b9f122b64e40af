"""Runs planned before there is a machine: sizes, memory, time, and the compiler's own word on them."""
