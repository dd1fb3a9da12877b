"""Speed and memory of the tools as ratios to one float inference by onnxruntime; `python -m benchmarks DATA`."""
