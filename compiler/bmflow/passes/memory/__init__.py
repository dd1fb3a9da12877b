"""Where activations live in DDR: lifetimes, aliases, and an allocation that reuses memory."""

from bmflow.passes.memory.allocate import Allocation, Buffer, allocate
from bmflow.passes.memory.lifetimes import ALIASES, TensorPlan, plan_tensors

__all__ = ["ALIASES", "Allocation", "Buffer", "TensorPlan", "allocate", "plan_tensors"]
