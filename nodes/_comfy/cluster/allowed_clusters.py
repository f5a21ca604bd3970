"""Which Ray clusters may be used: an address is part of a workflow, which may be a stranger's.

Ray unpickles what a cluster answers, so who owns it can have this computer run any program.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from ....wan_model.errors import SettingsError
from ....wan_model.prompt_help.endpoint import is_loopback

CLUSTERS = "WANDUET_RAY_CLUSTERS"
"""Environment variable: addresses with commas between them."""

HERE = ("", "auto", "local")
"""This computer's processes, or what Ray finds by its own settings, which no workflow changes."""

SHOWN = 60
"""Characters of an address that are repeated."""


def check_allowed(address: str, environment: Mapping[str, str]) -> None:
    """Refuses a cluster on another computer that nobody has allowed.

    Args:
        address: as in the workflow.
        environment: variables of this process.

    Raises:
        SettingsError: if it is one.
    """
    listed = {each.strip() for each in environment.get(CLUSTERS, "").split(",")}
    if address in HERE or address in listed or is_loopback(_host(address)):
        return
    shown = address[:SHOWN]
    raise SettingsError(
        f"This Ray cluster is not allowed. Got '{shown}', need one of this computer, or one that "
        f"{CLUSTERS} names: whoever owns a cluster can run programs here. Set this environment "
        f"variable to {shown} and start ComfyUI again, if it is yours."
    )


def _host(address: str) -> str:
    try:
        return urlsplit(f"//{address}").hostname or ""
    except ValueError:
        return ""
