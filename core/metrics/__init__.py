"""What can be measured: one catalogue, the counters that are fed, and what Prometheus is given of them. docs/metrics.md is made from it.

Names say who tells: ``baton_router_`` is one router's own state, ``baton_worker_`` one worker's, ``baton_pool_`` and
``baton_controller_`` the controller's; all others, ``baton_requests_total`` and the like, are of requests, and each router tells of
those it had. Units are in names, in seconds, bytes, tokens, blocks; ``_total`` only ever grows.
"""
