"""Domain verification, ACME, renewal and the certificate store.

The room of a later capability: nothing is here yet, and HTTPS listeners are not opened. It will import `state` only;
workers will ask it for a TLS context by name, control will run its renewals (see docs/).
"""
