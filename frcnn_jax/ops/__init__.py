"""Pure functions on one image: no parameters, no config, no hidden randomness."""
