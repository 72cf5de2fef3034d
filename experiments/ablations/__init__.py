"""One module for each ablation: its data, its models, and the function that measures them."""
