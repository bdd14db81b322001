"""Where a server may listen, and to whom."""

from __future__ import annotations

import socket

import pytest

from damoyolo.app.serving import access_for, address_of, is_local, listen
from damoyolo.errors import UserError


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("camera.example", False),
    ],
)
def test_other_machines_need_a_token(host: str, local: bool) -> None:
    assert is_local(host) is local
    if local:
        assert host in access_for(host, None).hosts
    else:
        with pytest.raises(
            UserError, match=f"^host: {host} can be reached from other machines; give a --token"
        ):
            access_for(host, None)
        assert access_for(host, "long-enough").token == "long-enough"


@pytest.mark.parametrize(
    "token", ["", "short", "with a space in it", "mit-Ümlauten-lang", "line\nbreak-long"]
)
def test_a_token_must_be_one(token: str) -> None:
    with pytest.raises(UserError, match=r"^token: has \d+ letters; give at least 8"):
        access_for("127.0.0.1", token)


def test_an_address_that_is_taken_or_none_is_told() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"^port: {port} is in use at 127.0.0.1; give another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match=r"^host: '999\.1\.1\.1' is no address"):
        listen("999.1.1.1", 0)
    with pytest.raises(UserError, match=r"^host: 192\.0\.2\.1 cannot be listened at"):
        listen("192.0.2.1", 0)


def test_the_address_is_for_a_browser() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener) == f"http://127.0.0.1:{port}/"
        assert address_of(listener, "secret-secret").endswith(f":{port}/#token=secret-secret")
    with listen("0.0.0.0", 0) as listener:
        assert socket.gethostname() in address_of(listener)
