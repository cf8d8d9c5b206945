"""Services as the API finds and writes them: names, look-ups, records, and the decision behind each write."""
