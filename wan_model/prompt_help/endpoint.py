"""Which address may be asked, and what is sent there."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ..errors import EndpointError

HOSTS, KEY = "WANDUET_PROMPT_HOSTS", "WANDUET_PROMPT_KEY"
"""Environment variables: addresses beside this computer, with commas between; a secret key."""

HTTP, HTTPS = "http", "https"


@dataclass(frozen=True)
class Endpoint:
    """An address whose rules have been checked."""

    scheme: str
    host: str
    port: int
    path: str
    """Of the service, such as "/v1/chat/completions"."""
    key: str | None = field(default=None, repr=False)
    """Goes into the request's header, and nowhere else."""


def checked_endpoint(address: str, allowed: str = "", key: str = "") -> Endpoint:
    """Returns what an address is.

    Args:
        address: of an OpenAI-compatible service, up to and with "/v1".
        allowed: value of `HOSTS`: names, or names with ports.
        key: value of `KEY`. It is sent to allowed hosts only, and never without encryption to
            another computer.

    Raises:
        EndpointError: if it cannot be used, or must not be.
    """
    try:
        parts = urlsplit(address.strip())
        host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
    except ValueError as error:
        raise _unusable(address, str(error)) from error
    if parts.scheme not in (HTTP, HTTPS) or not host:
        raise _unusable(address, "no http:// or https:// with a host")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise _unusable(address, "a name, a password, a question mark or a number sign")
    if any(ord(letter) <= 32 or ord(letter) > 126 for letter in parts.path + host):
        raise _unusable(address, "spaces or letters outside of ASCII")
    port = port or (443 if parts.scheme == HTTPS else 80)
    listed = is_listed(host, port, allowed.split(","))
    if not listed and not is_loopback(host):
        raise EndpointError(
            f"This address is on another computer. Got {host}, need this one (127.0.0.1, "
            f"localhost), or a host that {HOSTS} names. Add {host} to this environment variable "
            "and restart, if prompts and images may be sent there."
        )
    safe = parts.scheme == HTTPS or is_loopback(host)
    key = (key or "").strip()
    if any(ord(letter) <= 32 or ord(letter) > 126 for letter in key):
        raise EndpointError(
            "The key for the language model cannot be used. Got spaces, line breaks or letters "
            "outside of ASCII in it, need the key alone. Set its environment variable again."
        )
    path = parts.path.rstrip("/") + "/chat/completions"
    return Endpoint(parts.scheme, host, port, path, key if key and listed and safe else None)


def is_loopback(host: str) -> bool:
    """Whether a host is this computer, whatever names it may have beside."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_listed(host: str, port: int, allowed: Iterable[str]) -> bool:
    """Whether a host is one of those that a person allowed."""
    names = {one.strip().lower() for one in allowed}
    shown = f"[{host}]" if ":" in host else host
    return bool(names & {host, f"{shown}:{port}"})


def _unusable(address: str, why: str) -> EndpointError:
    return EndpointError(
        f"This is no address of a language model. Got {address[:200]!r} with {why}, need such as "
        "http://127.0.0.1:11434/v1. Correct it."
    )
