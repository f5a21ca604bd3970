"""ComfyUI's web server, and the model files that it shows to anybody who asks."""

from pathlib import Path
from typing import Any

import folder_paths
from server import PromptServer


def route_table() -> Any:
    """Returns the server's routes (`aiohttp.web.RouteTableDef`); None where no server runs."""
    server = getattr(PromptServer, "instance", None)
    return server.routes if server else None


def listed_file(folder: str, name: str) -> Path | None:
    """Returns the path of a model file that ComfyUI lists in a folder; None for any other name."""
    if name not in folder_paths.get_filename_list(folder):
        return None
    path = folder_paths.get_full_path(folder, name)
    return Path(path) if path else None
