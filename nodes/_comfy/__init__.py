"""Everything that touches ComfyUI's internals, and nothing else.

Only the public `comfy_api` may be imported elsewhere in `nodes`. What differs between ComfyUI
versions is probed here by name, never by version number.
"""
