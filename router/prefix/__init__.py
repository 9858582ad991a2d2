"""Who has which prompts cached: an index of KV blocks, fed by the workers, and of what this router has just sent them."""
