"""The page of the graph editor that queued the running prompt, and what is sent to it."""

from dataclasses import dataclass
from typing import Any

from comfy_execution.utils import get_executing_context
from server import PromptServer

SHOWS = "wanduet"
"""Our key in what the server knows of a client, as long as it is connected."""
LONGEST_ID = 100


@dataclass(frozen=True)
class Listener:
    """A page that has the graph editor's extension, and what it shows messages of a node by."""

    client: str
    node_id: str
    run: dict[str, str | None]
    """See `running_prompt`."""

    def send(self, event: str, data: dict[str, Any]) -> None:
        """Sends a message of the node."""
        message = {"node": self.node_id, **self.run, **data}
        PromptServer.instance.send_sync(event, message, self.client)


def remember_client(client_id: str) -> None:
    """Notes that a connected client has the graph editor's extension."""
    known = PromptServer.instance.sockets_metadata.get(client_id)
    if known is not None:
        known[SHOWS] = True


def showing_client() -> str | None:
    """Returns the client of the running prompt, if it has the graph editor's extension."""
    server = getattr(PromptServer, "instance", None)
    client = getattr(server, "client_id", None)
    if server is None or client is None:
        return None
    known = getattr(server, "sockets_metadata", {}).get(client, {})
    return client if known.get(SHOWS) else None


def listener() -> Listener | None:
    """Returns who is shown what the running node sends; None where nobody is."""
    context, client = get_executing_context(), showing_client()
    if context is None or client is None:
        return None
    return Listener(client, context.node_id, running_prompt())


def running_prompt() -> dict[str, str | None]:
    """Returns the "prompt_id" that runs, and the id of the "workflow" that it was queued from.

    Ids of nodes are those of other nodes in another workflow. A prompt without a workflow, such as
    one of the API, has None.
    """
    server = getattr(PromptServer, "instance", None)
    queue = getattr(server, "prompt_queue", None)
    for item in list(getattr(queue, "currently_running", {}).values()):
        found = item[3] if len(item) > 3 else None
        for name in ("extra_pnginfo", "workflow", "id"):  # a client may have sent anything
            found = found.get(name) if isinstance(found, dict) else None
        known = isinstance(found, str) and len(found) <= LONGEST_ID
        return {"prompt_id": str(item[1]), "workflow": found if known else None}
    return {"prompt_id": None, "workflow": None}
