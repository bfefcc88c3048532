"""Benchmarks of speed: ratios of two things measured in turn, in one run, on one machine."""
