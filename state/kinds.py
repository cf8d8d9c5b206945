"""The kinds of objects that the store keeps, and what their ids mean."""

from __future__ import annotations

import enum


class Kind(enum.StrEnum):
    """Each kind is one hash, `{wg}:<kind>`: field = id, value = `<version>:<payload>`."""

    SERVICE = "service"
    DEPLOYMENT = "deployment"
    REPLICA = "replica"
    SCALE = "scale"  # id: the service's
    BACKEND = "backend"  # id: the service's; what workers know of it
    ROUTE = "route"  # id: a host; what workers route by
    KEY = "key"  # id: "<namespace>/<name>"
    NAME = "name"  # id: "<namespace>/<folded name>"; payload: the service's id
    LABEL = "label"  # id: a label; payload: "<namespace>/<name>", its owner forever
    CERTIFICATE = "certificate"  # id: the name that it is served for: a host or "*.<parent>"
    DOMAIN = "domain"  # id: "<namespace>/<domain>"; a namespace's claim on a custom domain
    ISSUANCE = "issuance"  # id: the name that certificates are ordered for: a domain, the API's host, "*.<domain>"
    BUDGET = "budget"  # id: "name/<name of an issuance>" or "namespace/<namespace>"; what was spent of its orders
    CHALLENGE = "challenge"  # id: the domain that the CA looks at; what workers answer it
    ACCOUNT = "account"  # id: of an ACME server, as `certs` names it
    NODE = "node"  # id: the node's; what it offers
    TALLY = "tally"  # id: a namespace; payload: how many services it has
    META = "meta"  # id: a fact about the store, such as the secret key's fingerprint
