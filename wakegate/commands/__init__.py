"""Commands of `wakegate` that are clients of the API."""
