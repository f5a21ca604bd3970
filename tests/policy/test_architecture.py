"""Who may import whom."""

import ast
import re
from collections.abc import Iterator

from .source import Import, Source, pack_sources, sources

LAYERS = (
    {
        "config",
        "shapes",
        "errors",
        "conditioning",
        "prompt",
        "timed_text",
        "prompt_help",
        "compile_ahead",
        "kernel_trial",
        "triton_launch",
        "gpu_classes",
        "host_memory",
        "presets",
        "unreadable",
        "whole_file",
    },
    {"attention", "quant", "offload"},
    {"dit", "vae"},
    {"loading", "sampling", "parallel"},
    {"writing"},
    {"lora", "convert", "worker"},
)
"""Parts of wan_model; a part may import from itself and from the rows above it."""

COMFY_INTERNALS = {
    "comfy",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
}
COMFY = COMFY_INTERNALS | {"comfy_api", "comfy_aimdo"}


def layer_of(part: str) -> int:
    """Returns the row of a part of wan_model."""
    rows = [row for row, parts in enumerate(LAYERS) if part in parts]
    assert rows, f"wan_model/{part} has no place in LAYERS"
    return rows[0]


def absolute(source: Source) -> Iterator[Import]:
    """The absolute imports of a file."""
    return (found for found in source.imports if not found.relative)


def relative(source: Source) -> Iterator[Import]:
    """The imports of a file from the pack itself."""
    return (found for found in source.imports if found.relative)


def test_files_are_found():
    modules = {source.module[:2] for source in pack_sources()}
    assert {(), ("nodes",), ("wan_model", "config"), ("wan_model", "dit")} <= modules


def test_library_imports_only_from_lower_layers():
    wrong = []
    for source in sources("wan_model"):
        if len(source.module) == 1:  # wan_model/__init__.py gathers everything
            continue
        part = source.module[1]
        for found in relative(source):
            target = found.module.split(".")
            if target[0] != "wan_model" or len(target) < 2:
                wrong.append(f"{source}:{found.line} imports {found.module}")
                continue
            same_row = target[1] != part and layer_of(target[1]) == layer_of(part) > 0
            if layer_of(target[1]) > layer_of(part) or same_row:
                wrong.append(f"{source}:{found.line} imports {found.module}")
    assert not wrong, "\n".join(wrong)


def test_library_knows_nothing_of_comfyui():
    wrong = [
        f"{source}:{found.line} imports {found.module}"
        for source in sources("wan_model")
        for found in absolute(source)
        if found.top in COMFY
    ]
    assert not wrong, "\n".join(wrong)


def test_library_messages_name_no_node():
    """Nodes, widgets and sockets are named by the node layer (`nodes/_report.py`)."""
    words = re.compile(
        r"'(Load )?Wan [a-z]\w*|\b(node|widget|socket)s?\b"
        r"|model_(high|low)|(high|low)_noise_model|vram_budget_gb|pinned_ram_gb"
    )
    wrong = []
    for source in sources("wan_model"):
        documented = {id(node.value) for node in source.walk() if isinstance(node, ast.Expr)}
        wrong += [
            f"{source}:{node.lineno} {found.group()}"
            for node in source.walk()
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if id(node) not in documented and (found := words.search(node.value))
        ]
    assert not wrong, "\n".join(wrong)


def test_pack_imports_itself_relatively():
    # An absolute `nodes` is ComfyUI's own module, which only the adapter may want.
    wrong = [
        f"{source}:{found.line} imports {found.module}"
        for source in pack_sources()
        for found in absolute(source)
        if found.top in {"wan_model", "tests", "tools", "benchmarks"}
    ]
    assert not wrong, "\n".join(wrong)


def test_nodes_import_only_nodes_and_library():
    wrong = [
        f"{source}:{found.line} imports {found.module}"
        for source in sources("nodes")
        for found in relative(source)
        if found.top not in {"nodes", "wan_model"}
    ]
    assert not wrong, "\n".join(wrong)


def test_entry_point_imports_only_nodes():
    (entry,) = [source for source in pack_sources() if str(source) == "__init__.py"]
    wrong = [
        f"line {found.line} imports {found.module}"
        for found in entry.imports
        if found.top not in ({"nodes"} if found.relative else {"comfy_api"})
    ]
    assert not wrong, "\n".join(wrong)


def test_the_farm_and_the_pack_know_nothing_of_each_other():
    pack = {"nodes", "wan_model"}
    wrong = [
        f"{source}:{found.line} imports {found.module}"
        for source in [*sources("render_farm"), *pack_sources()]
        for found in source.imports
        if found.top in (pack if source.module[:1] == ("render_farm",) else {"render_farm"})
    ]
    assert not wrong, "\n".join(wrong)


def test_comfyui_internals_are_touched_in_one_place():
    wrong = [
        f"{source}:{found.line} imports {found.module}"
        for source in pack_sources()
        if not (source.module[:1] == ("nodes",) and source.module[-1].startswith("_comfy"))
        and "_comfy" not in source.module
        for found in absolute(source)
        if found.top in COMFY_INTERNALS
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_in_the_pack_puts_folders_on_the_import_path():
    wrong = [f"{source}: sys.path" for source in pack_sources() if "sys.path" in source.text]
    assert not wrong, "\n".join(wrong)
