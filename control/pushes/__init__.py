"""Push webhooks of forges: whose they are, what they mean, and that each counts once."""
