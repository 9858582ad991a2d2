"""vLLM's OpenAI server in front, the whole cluster behind its engine seam: flows, balancing, links, the Serve ingress."""
