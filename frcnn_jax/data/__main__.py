"""`python -m frcnn_jax.data check DIR`, or `show DIR`: look before you train."""

from absl import flags

from frcnn_jax import cli
from frcnn_jax.doctor import command

if __name__ == "__main__":
    command.define()
    flags.adopt_module_key_flags(command)  # so that --help shows them
    cli.run(command.main)
