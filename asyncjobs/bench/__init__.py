"""Benchmarks that users run on their own machine: ``asyncjobs bench jobs`` and ``asyncjobs bench parzen``."""
