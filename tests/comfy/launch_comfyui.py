"""Runs a ComfyUI `main.py` in this process: `python launch_comfyui.py PATH/main.py [arguments]`.

ComfyUI imports torchvision, whose Linux wheel on PyPI holds CUDA operators that do not load beside
a CPU build of torch. Its Python part is all that ComfyUI needs, and imports once the schemas of the
two operators that it annotates are known. A working torchvision is left alone.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
ANNOTATED_OPERATORS = ("nms", "qnms")


class TorchvisionWatcher(importlib.abc.MetaPathFinder):
    """Declares torchvision's missing operators at the moment that somebody imports it.

    Not earlier: torch would have to be imported, before ComfyUI has made its settings for it.
    """

    def find_spec(self, fullname: str, *_: object) -> None:
        """Finds nothing itself, and steps aside once torchvision is asked for."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            declare_missing_operators()


def declare_missing_operators() -> None:
    """Declares the operators of torchvision's compiled part if that part does not load."""
    torch = importlib.import_module("torch")
    spec = importlib.util.find_spec("torchvision")
    folders = (spec and spec.submodule_search_locations) or []
    for library in [file for folder in folders for file in Path(folder).glob("_C.so")]:
        try:
            torch.ops.load_library(str(library))
        except OSError:
            for name in ANNOTATED_OPERATORS:
                torch.library.define(f"torchvision::{name}", SCHEMA)


class EmptyTorchaudio(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchaudio and its parts where nobody else does, with nothing in them."""

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """Claims torchaudio and what is below it."""
        if fullname.partition(".")[0] != "torchaudio":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        """Leaves the module empty."""


def main() -> None:
    """Replaces this program by ComfyUI, with the arguments that are left."""
    sys.meta_path.insert(0, TorchvisionWatcher())
    sys.meta_path.append(EmptyTorchaudio())
    main_py = Path(sys.argv[1]).resolve()
    sys.argv = [str(main_py), *sys.argv[2:]]
    sys.path[0] = str(main_py.parent)
    runpy.run_path(str(main_py), run_name="__main__")


if __name__ == "__main__":
    main()
