"""WanDuet: Wan2.2 video models in ComfyUI."""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    """Returns the pack's nodes; called by ComfyUI when it loads custom nodes."""
    from .nodes import WanDuetExtension
    from .nodes._comfy.host.shipped import offer_shipped_files
    from .nodes.prompt_check.serve import register_checks
    from .nodes.routes import register_routes

    offer_shipped_files()
    register_routes()
    register_checks()
    return WanDuetExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
