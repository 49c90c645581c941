"""`python -m frcnn_jax doctor`: what is installed, what it runs on, what is wrong."""

import sys

from frcnn_jax import machine

if __name__ == "__main__":
    if sys.argv[1:] != ["doctor"]:
        print("usage: python -m frcnn_jax doctor", file=sys.stderr)
        raise SystemExit(2)
    text, faults = machine.report()
    print(text)
    raise SystemExit(1 if faults else 0)
