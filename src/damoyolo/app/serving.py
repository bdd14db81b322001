"""From options to a server that listens."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from damoyolo.app.guard import LOCAL_NAMES, Access
from damoyolo.app.limits import Limits
from damoyolo.app.patience import impatient
from damoyolo.app.server import create_app
from damoyolo.assemble.serving import ServedModel
from damoyolo.errors import UserError

BACKLOG = 512
"""Connections that the system holds until they are accepted."""
LEAST_TOKEN = 8
"""Letters of a token that can be taken for one."""


def serve(
    model: ServedModel,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the model until Ctrl-C or a request to terminate.

    Args:
        model: already opened.
        host: address to listen at.
        port: 0 for any that is free.
        token: what clients must send; needed where `host` can be reached from other machines.
        limits: of uploads, pixels and waiting requests.
        say: told the address.

    Raises:
        UserError: if the address cannot be had, or may not without a token.
    """
    access = access_for(host, token)
    limits = limits or Limits()
    listener = listen(host, port)
    with listener:
        model.warm_up()
        app = create_app(model, limits, access)
        say(f"{model.facts['name']} with {len(model.class_names)} classes at {address_of(listener, token)}")
        server_for(app, limits).run(sockets=[listener])


def access_for(host: str, token: str | None) -> Access:
    """Who may ask a server at `host`; `UserError` if that would be everybody."""
    if token is not None and (
        len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token
    ):
        raise UserError(
            f"token: has {len(token)} letters; give at least {LEAST_TOKEN}, of ASCII and without spaces"
        )
    if is_local(host):
        return Access(token, LOCAL_NAMES | {host})
    if token is None:
        raise UserError(
            f"host: {host} can be reached from other machines; give a --token that clients must send, "
            "or stay at 127.0.0.1"
        )
    return Access(token)


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; `UserError` if it cannot."""
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise UserError(f"host: '{host}' is no address of this machine; take 127.0.0.1 or 0.0.0.0") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UserError(_why_not(host, port, error)) from error
    return listener


def address_of(listener: socket.socket, token: str | None = None) -> str:
    """For a browser; the token is behind a #, which browsers keep to themselves."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/" + (f"#token={token}" if token else "")


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port: {port} is in use at {host}; give another --port, or 0 for any that is free"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port: {port} may not be used ({error.strerror}); give a --port above 1023"
    return f"host: {host} cannot be listened at ({error.strerror}); take 127.0.0.1 or 0.0.0.0"


def server_for(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """What runs the application on a socket."""
    config = uvicorn.Config(
        app,
        http=impatient(limits),
        loop="asyncio",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=limits.idle_s,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)
