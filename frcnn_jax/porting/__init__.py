"""Weights in, weights out: what `convert.py` does, from a file to a file.

`source` reads weights with their configuration and writes them, `recognition` finds
the configuration of a peer's file, `check` looks at weights and runs them once.
"""
