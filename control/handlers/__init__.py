"""What the API does at its paths: a group for each subject, which reads parameters and shows results.

A group says its `routes()`; `control.app` puts the groups together.
"""
