"""Words every other folder uses: ids, roles, handles, errors, configuration. No ray, no vllm, no torch, no I/O."""
