"""Training of the example's detector; needs the extra `train` (PyTorch, matplotlib). Nothing else imports this room at start-up."""
