"""The Services API: schemas, credentials, handlers, and what they write to the store.

It only writes documents by compare-and-set; the activator reacts to them. What it needs of others it says as a
Protocol in its own words (`control.ports`).
"""
