"""The data plane: listeners, HTTP, routing, balancing, forwarding, holding, access log, counters.

Warm traffic needs nothing but this package and memory (law 1); the warm path is synchronous callbacks.
"""
