"""What callers may use of a node and of the store: quotas, shares, and POSTs that are done once."""
