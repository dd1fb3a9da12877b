"""Rewrites that make a network easier to quantize without changing what it computes in float: the options --we, --gptq, --bc, --sq, --smc."""
