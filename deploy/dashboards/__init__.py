"""Grafana dashboards as code: ``python -m deploy.dashboards`` writes deploy/grafana/dashboards/*.json; docs/dashboards.md is
about their use.

Metrics are named by their entries of the catalogue, so a dashboard cannot ask for one that does not exist. Needs Grafana's SDK, a tool of
the developers'; nothing that serves imports this package.
"""
