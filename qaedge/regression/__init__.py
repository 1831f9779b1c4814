"""Regression: is it slower than it was? Verdicts, limits, suites, baselines, history, and their reports."""
