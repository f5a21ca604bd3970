"""ComfyUI as the host: model files, folders, devices, server, interrupts, text under a node."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_execution.utils import get_executing_context
from comfy_execution.validation import validate_node_input
from server import PromptServer

from ....wan_model.errors import CheckpointError, SettingsError
from ....wan_model.host_memory import container_room, give_back
from . import all_in_one
from .listener import listener

logger = logging.getLogger(__name__)


GGUF_FOLDERS = ("diffusion_models", "text_encoders")
"""Model folders of which files of GGUF are read as well."""

FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""Choices of precision that name what is computed in."""

GIVE_BACK_SECONDS = 2.0

CHECKS_COMBOS = validate_node_input(["a"], "COMBO")  # pyright: ignore[reportArgumentType]
"""Whether this ComfyUI takes lists and "COMBO" for one type; such versions check both."""


def model_names(folder: str) -> list[str]:
    """Returns the model files of one of ComfyUI's folders, by relative name: safetensors, GGUF.

    All-in-one files that have such a part in them follow.
    """
    names = folder_paths.get_filename_list(folder)
    names = [name for name in names if name.lower().endswith((".safetensors", ".sft"))]
    if folder in GGUF_FOLDERS:
        names = sorted({*names, *_gguf_names(folder)})
    return [*names, *all_in_one.names(folder)]


def _gguf_names(folder: str) -> list[str]:
    """Looks for them itself: ComfyUI lists only endings that it knows, which are not ours to add.

    Other packs list such files under folder names of their own.
    """
    found: list[str] = []
    for path in folder_paths.get_folder_paths(folder):
        files, _ = folder_paths.recursive_search(path, excluded_dir_names=[".git"])
        found += [name for name in files if name.lower().endswith(".gguf")]
    return found


def endings(folder: str) -> str:
    """Returns what the names of model files in a folder end in, for people."""
    return ".safetensors or .gguf" if folder in GGUF_FOLDERS else ".safetensors"


def is_file(folder: str, name: str) -> bool:
    """Whether a file lies in one of ComfyUI's model folders, listed or not."""
    return folder_paths.get_full_path(folder, name) is not None


def model_path(folder: str, name: str) -> Path:
    """Returns the full path of a model file.

    Raises:
        CheckpointError: for what is no name.
        FileNotFoundError: if it has gone since the list was made.
    """
    if not isinstance(name, str):
        raise CheckpointError(
            f"No file was chosen. Got {name!r}, need one in models/{folder}. Pick a file."
        )
    return Path(folder_paths.get_full_path_or_raise(*all_in_one.place(folder, name)))


def name_in_lists(folder: str, name: str) -> str:
    """Returns how our loaders list a file that one of ComfyUI's folders holds."""
    is_whole = folder == all_in_one.FOLDER
    return all_in_one.PREFIX + name.replace("\\", "/") if is_whole else name


def listed_file(folder: str, name: str) -> Path | None:
    """Returns the path of a model file that the loaders list; None for any other name."""
    if name not in model_names(folder):
        return None
    path = folder_paths.get_full_path(*all_in_one.place(folder, name))
    return Path(path) if path else None


def route_table() -> Any:
    """Returns the server's routes (`aiohttp.web.RouteTableDef`); None where no server runs."""
    server = getattr(PromptServer, "instance", None)
    return server.routes if server else None


def file_stamp(folder: str, *names: str | None) -> str:
    """Returns what changes when a file is written again; names that are not known yet are None."""
    stamps = []
    for name in names:
        path = folder_paths.get_full_path(*all_in_one.place(folder, name)) if name else None
        status = Path(path).stat() if path and Path(path).is_file() else None
        stamps.append(f"{status.st_size} {status.st_mtime_ns}" if status else "")
    return ", ".join(stamps)


def embedding_folders() -> list[str]:
    """Returns the folders of textual inversion embeddings."""
    return folder_paths.get_folder_paths("embeddings")


def cache_folder() -> Path:
    """Returns the folder where this pack may keep files between runs; not created."""
    return Path(folder_paths.get_user_directory()) / "wanduet"


def compute_device() -> torch.device:
    """Returns the device that ComfyUI computes on."""
    return comfy.model_management.get_torch_device()


def device_called(name: str) -> torch.device:
    """Returns a device by its name, "auto" for the one that ComfyUI computes on.

    Raises:
        SettingsError: if ComfyUI does not use it; it lists those that it does.
    """
    own = compute_device()
    if name == "auto":
        return own
    count = torch.cuda.device_count() if own.type == "cuda" else 0
    known = [f"cuda:{number}" for number in range(count)]
    if name not in known:
        raise SettingsError(
            f"This computer has no such device. Got {name}, need one of "
            f"{', '.join(['auto', *known])}. Choose one of these; ComfyUI sees those GPUs that it "
            "is started with."
        )
    return torch.device(name)


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Has a GPU be PyTorch's current one meanwhile: Triton and others run nowhere else."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def device_name(device: torch.device) -> str:
    """Returns what a device is called, "cpu" for a processor."""
    return str(comfy.model_management.get_torch_device_name(device))


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Returns what blocks compute in, beside 8-bit matmuls, for a choice of precision.

    Unless it is named, that is bf16 where the device computes in it, fp16 on older GPUs, fp32 on a
    CPU.
    """
    if precision in FLOATS:
        return FLOATS[precision]
    if comfy.model_management.is_device_cpu(device):
        return torch.float32
    if comfy.model_management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16


def reserved_bytes(device: torch.device) -> int:
    """Returns the memory of a device that ComfyUI leaves to others, in bytes."""
    if comfy.model_management.is_device_cpu(device):
        return 0
    return int(comfy.model_management.extra_reserved_memory())


def free_bytes(device: torch.device) -> int:
    """Returns the memory that is free on a device, in bytes."""
    return int(comfy.model_management.get_free_memory(device))


def free_ram_bytes() -> int:
    """Returns the memory that is free on the host, in bytes: in a container, of its limit."""
    free = free_bytes(torch.device("cpu"))
    room = container_room()
    return free if room is None else min(free, room)


def give_back_memory_soon() -> None:
    """Has freed memory returned to the system as soon as what is being freed now is."""
    loop = getattr(getattr(PromptServer, "instance", None), "loop", None)
    if loop is not None and loop.is_running():
        loop.call_soon_threadsafe(loop.call_later, GIVE_BACK_SECONDS, give_back)


def spare_bytes(device: torch.device) -> int:
    """Returns what is free on a device and not left to others.

    Windows moves what is beyond that to system memory, slowly and without an error.
    """
    return free_bytes(device) - reserved_bytes(device)


def intermediate_device() -> torch.device:
    """Returns where ComfyUI wants latents and images between nodes."""
    return comfy.model_management.intermediate_device()


def is_interrupted() -> bool:
    """Whether the user pressed cancel and ComfyUI has not ended the prompt yet."""
    return bool(comfy.model_management.processing_interrupted())


def raise_if_interrupted() -> None:
    """Raises ComfyUI's own exception if the user pressed cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress_bar(total: int) -> comfy.utils.ProgressBar:
    """Returns a bar for the node that is running."""
    return comfy.utils.ProgressBar(total)


def running_node() -> str | None:
    """Returns the id of the node that is being executed."""
    context = get_executing_context()
    return None if context is None else context.node_id


_said: ContextVar[list[str] | None] = ContextVar("said", default=None)
"""What is shown under nodes while a run is listened to."""


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collects what is shown under the running node meanwhile, each text once."""
    said: list[str] = []
    token = _said.set(said)
    try:
        yield said
    finally:
        _said.reset(token)


def show(node_id: str | None, text: str, *, heading: str = "", level: int = logging.INFO) -> None:
    """Shows text under a node in the graph editor, below a heading there, and in the log."""
    logger.log(level, text)
    said = _said.get()
    if said is not None and text not in said:
        said.append(text)
    text = f"{heading}\n{text}" if heading else text
    if node_id is None:
        return
    page = listener()
    if page is None:
        PromptServer.instance.send_progress_text(text, node_id)
    else:
        # The newest editor takes the server's own texts away when a run is over.
        page.send("wanduet.said", {"node": node_id, "text": text})


def write_temporary(prefix: str, ending: str, data: bytes) -> dict[str, str]:
    """Writes a file that lasts until ComfyUI starts anew; returns what /view finds it by."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folder, prefix=f"{prefix}_", suffix=ending, delete=False) as file:
        file.write(data)
    return {"filename": Path(file.name).name, "subfolder": "", "type": "temp"}
