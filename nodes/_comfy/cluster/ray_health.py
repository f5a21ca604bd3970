"""Whether the cluster that this process is connected to still is there.

Ray ends a process that sends objects when its part on that computer has gone, and one that has not
reached the cluster's first computer for some time. Here that process is ComfyUI, so both are looked
at before Ray is asked for more. Looking is a connection to a port, which is closed again.
"""

import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

CONNECT_SECONDS = 3.0
"""For a connection with a computer that may be gone."""

Place = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True)
class Health:
    """Where the two parts of Ray listen that a connection needs."""

    head: Place
    """On the cluster's first computer."""
    here: Place
    """On this computer."""

    @classmethod
    def of(cls, ray: Any) -> "Health | None":
        """Returns it for a connected Ray, None if either part is gone."""
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        head = (host.strip("[]"), int(port))
        if not _listens(head):
            return None  # or Ray would be waited for
        own = context.get_node_id()
        for node in ray.nodes():
            if node["NodeID"] == own and node["Alive"]:
                found = cls(head, (node["NodeManagerAddress"], node["NodeManagerPort"]))
                return found if found.here_is_alive else None
        return None

    @property
    def here_is_alive(self) -> bool:
        """Whether objects can be sent and received."""
        return _listens(self.here)

    @property
    def head_is_alive(self) -> bool:
        """Whether somebody would notice that a process has ended."""
        return _listens(self.head)


def _listens(place: Place) -> bool:
    with suppress(OSError), socket.create_connection(place, CONNECT_SECONDS):
        return True
    return False
