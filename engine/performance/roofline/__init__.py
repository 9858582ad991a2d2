"""How long a step takes of a model on a GPU that nobody has measured: every operator's work against what the GPU can do."""
