"""What a worker does for prefill: compute a prompt, sample one token, keep the KV under a lease until it is read."""
