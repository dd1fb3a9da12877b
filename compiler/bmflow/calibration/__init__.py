"""Find the range of every tensor from sample inputs: statistics, threshold methods, tuning."""
