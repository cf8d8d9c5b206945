"""The benchmark: Wakegate beside nginx, HAProxy, Caddy, Envoy and a plain aiohttp proxy, doing the same job.

It measures and reports; it asserts nothing. Every proxy is pinned to one core; the load generator (wrk) and the backend
share another one. All traffic stays on 127.0.0.1, and every load is bounded in time.
"""
