"""Who may ask: checks of the token, and against other web pages that make a browser ask."""

import hmac
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from st_adapter.errors import ArgumentError
from st_adapter.serving.refusals import Refusal
from st_adapter.wording import setting, switch

_SHORTEST_TOKEN = 16
"""Fewest characters of a token; a shorter one could be guessed."""


def is_loopback(host: str) -> bool:
    """Return whether an address or name can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(host: str, file: Path | None, no_token: bool) -> str | None:
    """Return the token that requests must have, or None.

    Args:
        host: The address that is listened on.
        file: A file that contains the token.
        no_token: Whether requests need none even if other machines can send them.

    Raises:
        ArgumentError: The token is missing, not readable or too short.
    """
    if file is None:
        if not no_token and not is_loopback(host):
            raise ArgumentError(
                f"other machines can reach {host}, so requests must have a token; give a file that "
                f"contains one ({setting('token-file', 'FILE')}), or allow everyone with "
                f"{switch('no-token')}"
            )
        return None
    if no_token:
        raise ArgumentError(f"use {setting('token-file')} or {switch('no-token')}, not both")
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{file}: the token cannot be read: {error}") from error
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ArgumentError(
            f"{file}: a token is one line of at least {_SHORTEST_TOKEN} ASCII characters, such as "
            "`openssl rand -hex 32` prints"
        )
    return token


def check_token(given: str | None, token: str) -> None:
    """Raise Refusal unless a request has the token, compared in constant time."""
    if not hmac.compare_digest((given or "").encode(), token.encode()):
        raise Refusal(401, "send the token of this server: Authorization: Bearer TOKEN")


def check_origin(headers: Headers, only_loopback: bool) -> None:
    """Refuse requests that a page of another site made a browser send.

    Args:
        headers: Headers of the request.
        only_loopback: Whether `Host` must be this machine. That stops pages whose name was made to
            resolve to 127.0.0.1 (DNS rebinding), which a browser takes for the same site.

    Raises:
        Refusal: The request comes from another site.
    """
    host = headers.get("host", "").lower()
    if only_loopback and not is_loopback(_name(host)):
        raise Refusal(403, "without a token, only requests to localhost or 127.0.0.1 are answered")
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        raise Refusal(403, "requests from pages of other sites are not answered")


def _name(host: str) -> str:
    """Return the header `Host` without its port, or "" if it is not valid."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
