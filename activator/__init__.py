"""Sleep and wake: the waiting room (in a worker), the autoscaler and the life of replicas (in control), drivers.

It imports only `state`; what it needs of others it says as a Protocol in its own words.
"""
