"""Answers that are long: followed streams, and pages of megabytes to clients that may be slow."""
