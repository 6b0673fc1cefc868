"""Measurements behind every performance claim. Each prints a table and writes JSON to benchmarks/results/."""
