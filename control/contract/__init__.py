"""What callers and the API say to each other: operations, bodies, queries, answers, problems; and `/openapi.json`."""
