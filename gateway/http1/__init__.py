"""HTTP/1.1 on the wire (RFC 9112): heads, chunks, the client's connection, the replica's connection."""
