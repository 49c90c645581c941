"""Flax modules: parameters and arithmetic on pixels, maps and crops.

No ground truth, no losses, no boxes. Every submodule is named, so parameter paths read
like speech and never change. Initial values are not here but in `initialise`: modules
only declare shapes, which keeps starting up quick.
"""
