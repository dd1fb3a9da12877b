"""The stages of the pipeline as processes: files in, files out, a result JSON, an exit code."""
