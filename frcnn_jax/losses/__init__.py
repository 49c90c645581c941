"""Element-wise losses, unreduced, float32; each has the leading shape of its input."""
