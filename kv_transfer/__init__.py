"""KV hand-off: leases, the vLLM connector and the registry of transfer back-ends."""
