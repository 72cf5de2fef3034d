"""The measurements: notebooks with parameters, their claims, and the command that runs them."""
