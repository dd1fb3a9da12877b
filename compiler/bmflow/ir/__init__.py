"""The network as SSA ops with types, layer names and weights; the only room besides `dialects` that imports xDSL."""
