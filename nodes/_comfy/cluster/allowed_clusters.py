"""Which Ray clusters may be used: an address is part of a workflow, which may be a stranger's.

Ray unpickles what a cluster answers, so who owns it can have this computer run any program.
"""

import re
from collections.abc import Mapping

from ....wan_model.errors import SettingsError
from ....wan_model.prompt_help.endpoint import is_loopback

CLUSTERS = "WANDUET_RAY_CLUSTERS"
"""Environment variable: addresses with commas between them."""

HERE = ("", "auto", "local")
"""This computer's processes, or what Ray finds by its own settings, which no workflow changes."""

LOOPBACK = re.compile(r"(localhost|127[.\d]+|\[::1\]):\d+", re.ASCII)
"""Whole addresses, and no others: Ray reads some in a way of its own, such as `a:1@localhost`."""

SHOWN = 60
"""Characters of an address that are repeated."""


def check_allowed(address: str, environment: Mapping[str, str]) -> None:
    """Refuses a cluster that may be on another computer, and that nobody has allowed.

    Args:
        address: as in the workflow.
        environment: variables of this process.

    Raises:
        SettingsError: if it is one.
    """
    listed = {each.strip() for each in environment.get(CLUSTERS, "").split(",")}
    if address in HERE or address in listed or _is_loopback(address):
        return
    raise SettingsError(
        f"This Ray cluster is not allowed. Got '{address[:SHOWN]}', need 127.0.0.1 with the port, "
        f"or an address that {CLUSTERS} names: whoever owns a cluster can run programs here. Write "
        "127.0.0.1:PORT if the cluster runs on this computer; if it is yours elsewhere, add its "
        "address to this environment variable and start ComfyUI again."
    )


def _is_loopback(address: str) -> bool:
    found = LOOPBACK.fullmatch(address)
    return found is not None and is_loopback(found[1].strip("[]"))
