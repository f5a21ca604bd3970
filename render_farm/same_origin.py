"""Keeps other sites' pages out, by ComfyUI's own rule.

A page that somebody looks at could ask 127.0.0.1 for anything. Addresses that are not this
computer's are left to who protects them: a proxy in front may give the farm another name.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

from aiohttp import web

logger = logging.getLogger(__name__)


@web.middleware
async def same_origin(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuses what another site's page asks of this computer, or nobody can say who."""
    origin, host = request.headers.get("Origin"), request.headers.get("Host", "")
    try:
        refused = await _is_foreign(request, origin, urlsplit(f"//{host}"))
    except ValueError:  # an address that is none
        refused = True
    if refused:
        logger.warning("Refused: a page of %s asked %s.", origin, host)
        return web.Response(status=403)
    return await handler(request)


async def _is_foreign(request: web.Request, origin: str | None, host: SplitResult) -> bool:
    foreign = origin is not None and _differ(urlsplit(origin), host)
    return request.headers.get("Sec-Fetch-Site") == "cross-site" or (
        foreign and await _is_here(host.hostname or "")
    )


def _differ(origin: SplitResult, host: SplitResult) -> bool:
    """Whether two addresses differ; one without a port has any."""
    try:
        ports = {origin.port, host.port} - {None}
    except ValueError:
        return True
    return origin.hostname != host.hostname or len(ports) > 1


async def _is_here(name: str) -> bool:
    """Whether a host's name or address is this computer's own, reached from it alone."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None)
    except (OSError, UnicodeError):
        return False
    addresses = [str(each[4][0]).partition("%")[0] for each in found]
    return all(ipaddress.ip_address(each).is_loopback for each in addresses)
