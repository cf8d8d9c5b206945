"""What the system knows: models, the store, the change feed, leases, secrets.

The bottom package: it imports nothing of ours. Everything that two processes share goes through it.
"""
