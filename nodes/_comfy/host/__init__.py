"""ComfyUI as the host: devices, folders, server, shipped files."""
