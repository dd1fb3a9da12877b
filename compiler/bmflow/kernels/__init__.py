"""What every op of the top and tpu dialects means, computed by onnxruntime.

A module becomes one ONNX graph, with any inner value exposed by its layer name. Integer ops are exact, bit for bit as the dialects
define them; float ops compute in float32 and round once, at their result.
"""

from bmflow.kernels.executable import Executable
from bmflow.kernels.held import to_real

__all__ = ["Executable", "to_real"]
