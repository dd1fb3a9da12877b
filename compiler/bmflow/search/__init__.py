"""Mixed precision: which layers hurt in 8 bits, what lifting them costs, and which tables are worth deploying."""
