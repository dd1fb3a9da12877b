"""The SSA classes other rooms may name in annotations, so that they need not import xDSL."""

from xdsl.ir import Attribute, Block, Operation, SSAValue

__all__ = ["Attribute", "Block", "Operation", "SSAValue"]
