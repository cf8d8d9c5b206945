"""Custom domains of services: the claims on them, where they send requests on to, and certificates of their owners."""
