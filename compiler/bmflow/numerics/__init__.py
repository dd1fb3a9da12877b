"""Numbers: rounding, fixed point, half types, similarity. Needs numpy alone."""
