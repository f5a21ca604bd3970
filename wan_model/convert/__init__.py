"""Makes safetensors of other files: `python -m wan_model.convert FILE`. Never used by a server."""
