"""What nodes that write prompts show of them."""

from typing import Any

from ._comfy.host import runtime
from ._comfy.host.listener import showing_client


def shown_prompt(node_id: str | None, prompt: str, text: str) -> dict[str, Any]:
    """Shows a prompt at its node, and returns what the editor's extension shows and edits.

    Nodes 2.0 has no place for text that is sent while a node runs.

    Args:
        node_id: of the running node.
        prompt: what the node returns.
        text: what is shown: the prompt, and what there is to say of it.
    """
    if showing_client() is None:
        runtime.show(node_id, text)
    return {"wanduet_prompt": [{"prompt": prompt, "text": text}]}
