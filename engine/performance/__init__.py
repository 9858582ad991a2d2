"""How long the steps of known GPUs and models take, by name, and fitting the same from measured steps."""
