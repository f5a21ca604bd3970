"""One address for several ComfyUIs, one per GPU: `python -m render_farm`. See docs/cluster.md.

Knows ComfyUI by its HTTP interface only, and nothing of this pack's nodes.
"""
