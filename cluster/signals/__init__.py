"""What the autoscaler is told: of clients by what routers count, from Prometheus or asked directly; of workers by what they report."""
