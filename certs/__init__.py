"""Certificates: the internal development CA, an ACME client, and when what is renewed (control runs it).

Workers read what is stored here through `gateway.certificates`. Imports `state` only.
"""
