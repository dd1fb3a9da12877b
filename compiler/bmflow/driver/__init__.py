"""The verbs of bmflow as functions: what a command, a script or a pipeline step calls."""
