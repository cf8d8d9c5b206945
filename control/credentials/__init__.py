"""Who calls, and what he may: keys, their use, authentication and its failures."""
