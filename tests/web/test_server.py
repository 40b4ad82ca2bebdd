from __future__ import annotations

from proxy.web.server import listen


def test_every_address_of_a_name_gets_the_same_port() -> None:
    bound = listen("localhost", 0)
    ports = {sock.getsockname()[1] for sock in bound}
    for sock in bound:
        sock.close()
    assert len(ports) == 1
    assert ports != {0}
