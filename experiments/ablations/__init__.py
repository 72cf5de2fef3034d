"""One module for each ablation: its data, its models, and what measures them."""
