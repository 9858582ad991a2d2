"""One engine interface, the vLLM engine behind it and a simulated one that obeys it to the letter."""
