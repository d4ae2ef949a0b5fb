"""Measures the promises about speed on real parts: `make benchmark`, or `python -m benchmarks --help`.

Everything printed was measured in that run. Each figure comes with the processes that ran and with what bounded it.
"""
