"""Code generation: from a lowered module to the command streams and the weight image of one processor."""
