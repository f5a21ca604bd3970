"""What the server routes need from ComfyUI, imported when it is called."""

from typing import Any


def route_table() -> Any:
    """Returns the routes of ComfyUI's server (`aiohttp.web.RouteTableDef`); None without a server."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    return server.routes if server else None


def listed_file(folder: str, name: str) -> str | None:
    """Returns the path of a model file that ComfyUI lists; None for any other name."""
    import folder_paths

    if folder not in folder_paths.folder_names_and_paths:
        return None
    if name not in folder_paths.get_filename_list(folder):
        return None
    return folder_paths.get_full_path(folder, name)


def scheduler_names() -> list[str]:
    """Returns the names of ComfyUI's own schedulers."""
    import comfy.samplers

    return list(comfy.samplers.SCHEDULER_NAMES)


def core_schedule(scheduler: str, steps: int, shift: float) -> list[float]:
    """Returns the full schedule [steps + 1] of one of ComfyUI's schedulers for a flow model."""
    import comfy.model_sampling
    import comfy.samplers

    sampling = comfy.model_sampling.ModelSamplingDiscreteFlow()
    sampling.set_parameters(shift=shift, multiplier=1000)
    return comfy.samplers.calculate_sigmas(sampling, scheduler, steps).tolist()
