"""A trained detector as files that JAX alone can run."""
