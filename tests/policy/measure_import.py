"""Prints what importing the pack takes, as a part of what torch and ComfyUI take before.

`python measure_import.py COMFYUI PACK`, in a fresh process, with the packages of ComfyUI at hand.
"""

import asyncio
import importlib
import importlib.util
import runpy
import sys
import time
from pathlib import Path


def import_comfyui(comfyui: Path) -> None:
    """Imports what a running ComfyUI has imported before it turns to custom nodes."""
    launcher = runpy.run_path(str(Path(__file__).parents[1] / "comfy" / "launch_comfyui.py"))
    sys.meta_path.insert(0, launcher["TorchvisionWatcher"]())
    sys.path[0] = str(comfyui)
    sys.argv = ["main.py", "--cpu"]
    importlib.import_module("comfy.options").enable_args_parsing()
    for name in ("utils.extra_config", "nodes", "server", "comfy_extras.nodes_video"):
        importlib.import_module(name)


async def import_pack(folder: Path) -> list[type]:
    """Loads the pack as ComfyUI does and returns its nodes."""
    spec = importlib.util.spec_from_file_location(
        "measured_pack", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return await (await module.comfy_entrypoint()).get_node_list()


def main() -> None:
    """Command line: the folders of ComfyUI and of the pack."""
    comfyui, pack = (Path(argument).resolve() for argument in sys.argv[1:])
    begun = time.process_time()
    import_comfyui(comfyui)
    start = time.process_time()
    nodes = asyncio.run(import_pack(pack))
    seconds = time.process_time() - start
    assert nodes
    sys.stdout.write(f"{seconds / (start - begun):.4f}\n")


if __name__ == "__main__":
    main()
