from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import respx
import trustme
from httpx import ConnectTimeout, ProxyError, ReadError, ReadTimeout, Response

from tests.cli.conftest import ADMIN_TOKEN, Command
from tests.running import tollgate as running

URL = "http://tollgate.example:8000"
PROBLEM = {"content-type": "application/problem+json"}


@pytest.fixture(autouse=True)
def token(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_ADMIN_TOKEN", ADMIN_TOKEN)


def refused(tollgate: Command, answer: Response | Exception) -> str:
    with respx.mock(base_url=URL) as mocked:
        route = mocked.get("/admin/tenants")
        route.side_effect = [answer]
        said = tollgate.refused("--server", URL, "tenants", "list")
    assert ADMIN_TOKEN not in said
    assert "\x1b" not in said
    return said


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ConnectTimeout("timed out"), f"{URL} cannot be reached: timed out"),
        (ProxyError("403 Forbidden"), f"the proxy on the way to {URL} refuses: 403 Forbidden"),
        (ReadTimeout(""), f"{URL} does not answer in time: the command may have been carried out, or not"),
        (ReadError(""), f"the connection to {URL} broke (ReadError): the command may have been carried out, or not"),
        (Response(404, text="nope"), f"{URL} has no admin API, or something stands before it: it answered 404 with "),
        (Response(404, json={"error": {"message": "x"}}), "it answered 404 with application/json"),
        (Response(502, html="<h1>Bad\x1b Gateway</h1>"), "it answered 502 with text/html: <h1>Bad Gateway</h1>"),
        (Response(200, html="<h1>Login</h1>"), "answered what its admin API does not: 200 with text/html: <h1>Login"),
        (Response(200, json={"data": 5}), "answered what its admin API does not: 200 with application/json"),
        (Response(301, headers={"location": "https://x/admin/tenants"}), f"{URL} sends elsewhere, to https://x/admin"),
        (
            Response(503, headers=PROBLEM, json={"type": "/docs#ledger_unavailable", "detail": "Later."}),
            f"{URL}: Later.",
        ),
        (Response(500, headers=PROBLEM, content=b"{"), "it answered 500 with application/problem+json"),
    ],
)
def test_what_stands_in_the_way_is_told_in_one_line(
    tollgate: Command, answer: Response | Exception, words: str
) -> None:
    assert words in refused(tollgate, answer)


def test_a_server_without_an_admin_api_says_how_to_turn_it_on(
    tollgate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tollgate.directory) as server:
        said = tollgate.refused("--server", server.url, "tenants", "list")
    assert (
        said
        == f"{server.url}: The admin API is turned off. Set TOLLGATE_ADMIN_TOKEN and restart the server to turn it on."
    )


def test_a_wrong_token_is_told_and_not_shown(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tollgate.directory, TOLLGATE_ADMIN_TOKEN=ADMIN_TOKEN) as server:
        monkeypatch.setenv("TOLLGATE_ADMIN_TOKEN", "another-token")
        said = tollgate.refused("--server", server.url, "tenants", "list")
    assert said == f"{server.url} refuses the token in TOLLGATE_ADMIN_TOKEN"


def test_a_refused_connection_is_told(tollgate: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    said = tollgate.refused("--server", url, "tenants", "list")
    assert said == f"{url} cannot be reached: [Errno 111] Connection refused"


@contextmanager
def behind_tls(authority: trustme.CA) -> Iterator[str]:
    """A server's URL that speaks TLS with a certificate of this authority, and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            try:
                with context.wrap_socket(client, server_side=True) as spoken:
                    spoken.recv(65_536)
                    spoken.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 26\r\n\r\n")
                    spoken.sendall(b'{"data": [], "next": null}')
            except OSError:
                pass  # it does not trust us

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_a_certificate_that_nobody_knows_is_told_and_one_that_is_known_is_taken(
    tollgate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    with behind_tls(authority) as url:
        said = tollgate.refused("--server", url, "tenants", "list")
        assert said.startswith(f"{url} cannot be reached: [SSL: CERTIFICATE_VERIFY_FAILED]")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with behind_tls(authority) as url:
        assert tollgate.json("--server", url, "tenants", "list") == []


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_what_would_lead_elsewhere_in_a_path_is_not_asked_for(tollgate: Command, value: str) -> None:
    with respx.mock():
        said = tollgate.refused("--server", URL, "keys", "revoke", value)
    assert said == f"{value!r} is no key id"


def test_a_path_before_the_api_is_kept_and_ids_are_one_part_of_it(tollgate: Command) -> None:
    with respx.mock() as mocked:
        route = mocked.get(f"{URL}/gateway/admin/events/a%2Fb%3Fc")
        route.respond(404, headers=PROBLEM, json={"type": "/docs#no_such", "detail": "there is no event a/b?c"})
        said = tollgate.refused("--server", f"{URL}/gateway/", "events", "show", "a/b?c")
    assert said == "there is no event a/b?c"
