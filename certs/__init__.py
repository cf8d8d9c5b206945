"""Certificates: the internal development CA, and when what is renewed (control runs it).

Workers read what is stored here through `gateway.certificates`. Imports `state` only; domain verification and ACME are
the room of a later capability.
"""
