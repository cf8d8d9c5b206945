"""TLS on the client's side: from a connection's first bytes to plain HTTP, and back (RFC 8446, RFC 6066, RFC 7301)."""
