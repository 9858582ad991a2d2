"""``baton plan``: what is asked, the answer by ``engine.performance.plan``, and how it is told: text, JSON, pictures, YAML."""
