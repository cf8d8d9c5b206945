"""A client of ACME (RFC 8555), with TLS-ALPN-01 (RFC 8737), renewal information (RFC 9773) and profiles.

One file per object of the protocol. It keeps nothing and decides nothing: when to ask, which challenge to answer and
what to store is for who calls. Laws kept here: 5 (objects are values, reading them is pure, `now` is an argument) and
7 (bodies, lists, strings, nonces, attempts and times are bounded).

What a server may do, and what comes of it (`certs.acme.problem`): whatever it sends ends in a value or an AcmeError.

- It refuses: `Problem` with its type and, if it said so, the seconds after which it may be asked again.
- It refuses a nonce: the request is signed again with a fresh one, up to `transport.ATTEMPTS` times.
- It can't be reached, is silent for too long, or hangs up: `Unreachable`. Nothing that is signed is sent twice: an
  order that was lost on the way back exists, and a second one counts against the server's limits.
- It answers what is not ACME (broken JSON, a redirect, a plain http: URL, bodies without end): `BadAnswer`.
"""
