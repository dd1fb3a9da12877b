"""Executes a bmodel: decodes its command bytes and does what the instruction notes say each command does.

It knows nothing of the compiler; agreement with the kernels is therefore evidence (`tests/agreement`).
"""

from bmflow.simulator.checks import Problem
from bmflow.simulator.cycles import Estimate, LayerEstimate
from bmflow.simulator.simulator import Simulation, Simulator, simulate

__all__ = ["Estimate", "LayerEstimate", "Problem", "Simulation", "Simulator", "simulate"]
