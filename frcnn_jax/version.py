"""The version of the package, apart from it so that its parts can ask."""

__version__ = "0.1.0"
