"""Prints what the pack imports when ComfyUI loads it, as a JSON list of dotted names.

`python watch_import.py COMFYUI PACK`, in a fresh process, with the packages of ComfyUI at hand.

That is what the pack's files ask for, though ComfyUI may have imported it before: another version
may not. And what is there afterwards and was not before, whoever asked for it.
"""

import asyncio
import builtins
import importlib
import importlib.util
import json
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACK = "watched_pack"


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
        PACK, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return await (await module.comfy_entrypoint()).get_node_list()


@contextmanager
def watched() -> Iterator[set[str]]:
    """Collects what is imported meanwhile, but for the pack's own modules."""
    found: set[str] = set()
    before, own_import = set(sys.modules), builtins.__import__

    def watch(
        name: str,
        caller: Mapping[str, Any] | None = None,
        local: Mapping[str, Any] | None = None,
        parts: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if level == 0 and str((caller or {}).get("__name__")).startswith(PACK):
            found.update((name, *(f"{name}.{part}" for part in parts or ())))
        return own_import(name, caller, local, parts or (), level)

    builtins.__import__ = watch
    try:
        yield found
    finally:
        builtins.__import__ = own_import
        found.update(name for name in set(sys.modules) - before if not name.startswith(PACK))


def main() -> None:
    """Command line: the folders of ComfyUI and of the pack."""
    comfyui, pack = (Path(argument).resolve() for argument in sys.argv[1:])
    import_comfyui(comfyui)
    with watched() as found:
        assert asyncio.run(import_pack(pack))
    sys.stdout.write(json.dumps(sorted(found)) + "\n")


if __name__ == "__main__":
    main()
