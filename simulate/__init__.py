"""A discrete-event simulator for autoscalers: `make simulate`. It drives the real `activator.autoscaler.decide`.

`traces` says when requests come and what they need; `world` is everything but the algorithm: replicas that start, serve
and drain, the waiting room, workers' reports, the ticks; `wakegate` and `knative` are two algorithms in the same world;
`results`, `drawing` and `document` tell what became of it. Seeded: the same figures each time.
"""
