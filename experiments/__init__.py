"""The measurements: a folder for each question, what several of them share, and the engine that runs them."""
