"""Benchmarks: speeds as ratios, every contender measured beside the others in one run."""
