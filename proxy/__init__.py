"""Tollgate, an OpenAI-compatible reverse proxy that meters.

A request passes these stages, in this order; each is a module of its own name in `proxy.gateway`:

    auth      the key names the tenant
    ownership what the request names by ids is the tenant's own, or is not found
    admit     the tenant's limits hold a place for the request, or refuse it
    forward   the upstream answers, over a pooled connection (`proxy.upstream`)
    meter     a copy of the answer's bytes tells the token usage (`proxy.wire`)
    settle    the price book tells the cost (`proxy.billing.prices`); then one transaction releases the hold and writes
              event and rollups (`proxy.store`)

The last bytes reach the client after that transaction has committed. Behind the request path, the relay
(`proxy.delivery`) carries the committed events to the metering engine. `proxy.billing` rates them by a catalog of
plans, and asks the engine what it made of them. `proxy.webhooks` tells operators what the ledger shows of limits.
`proxy.declaration` keeps tenants as the settings' file declares them. `proxy.agent` puts three plain endpoints on top
of the same stages, `proxy.web` and `proxy.cli` let people look, `proxy.admin` is what operators do through either, and
`proxy.app` wires it all.
"""

import sys

__version__ = "0.1.0"

# httpx has a command line of its own, for which it would load rich and pygments into each server.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type] # so it is not found, which httpx is ready for
