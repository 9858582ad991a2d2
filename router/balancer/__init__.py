"""Choosing workers: candidates, policies that price them, and the balancer that takes the cheapest."""
