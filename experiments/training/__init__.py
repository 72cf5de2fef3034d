"""How the questions train their models: many seeds at once, at several learning rates."""
