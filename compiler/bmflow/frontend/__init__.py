"""Readers of foreign networks; each turns a file into a top module and can run the original for comparison."""
