"""What the balancer expects: step times, output lengths, transfers. All of it learnt from what happened, and checked against it."""
