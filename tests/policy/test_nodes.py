"""The nodes as ComfyUI shows them: a frozen contract, tooltips, a quick import."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.server import REPOSITORY, ComfyServer, install_pack, server_environment

from . import contract, locales

MIN_TOOLTIP, MAX_TOOLTIP = 20, 200
"""Characters: one or two sentences. What is longer is for the help page."""
HEAVY = {
    *("triton", "torch._dynamo", "torch._inductor", "torchvision", "torchaudio"),
    *("transformers", "tokenizers", "sentencepiece", "diffusers", "accelerate", "gguf", "ray"),
    *("comfy_kitchen", "flash_attn", "flash_attn_interface", "fa3_fwd", "sageattention"),
    *("scipy", "cv2", "matplotlib", "imageio"),
}
"""What takes seconds to import, or is imported only when somebody runs what needs it."""

NODE = {
    "required": [{"name": "model", "type": "MODEL"}, {"name": "steps", "type": "INT", "min": 1}],
    "optional": [{"name": "mode", "type": "COMBO", "choices": ["a", "b"]}],
    "outputs": ["LATENT latent"],
}


@pytest.fixture(scope="module")
def object_info(comfy_server: ComfyServer) -> dict[str, Any]:
    return comfy_server.object_info()


@pytest.mark.comfy
def test_contract_is_kept(object_info: dict[str, Any]):
    current = contract.describe(object_info, "wan-duet")
    if os.environ.get("WANDUET_UPDATE_SNAPSHOT"):
        contract.record(current)

    assert current, "the pack's nodes are not loaded"
    broken = contract.broken_promises(contract.load(), current)
    assert not broken, "Run with WANDUET_UPDATE_SNAPSHOT=1 if this is meant.\n" + "\n".join(broken)


@pytest.mark.comfy
def test_english_words_are_those_of_the_nodes(object_info: dict[str, Any]):
    """The editor takes them instead of the nodes' own, so both have to agree."""
    current = locales.of_schema(object_info, list(contract.describe(object_info, "wan-duet")))
    if os.environ.get("WANDUET_UPDATE_SNAPSHOT"):
        locales.record("en", current)

    assert locales.load("en") == current, "Run with WANDUET_UPDATE_SNAPSHOT=1 if this is meant."


@pytest.mark.comfy
def test_every_input_is_explained_in_a_sentence_or_two(object_info: dict[str, Any]):
    wrong = []
    for node_id in contract.describe(object_info, "wan-duet"):
        info = object_info[node_id]
        if not MIN_TOOLTIP <= len(info["description"]) <= MAX_TOOLTIP:
            wrong.append(f"{node_id}: description {info['description']!r}")
        for group, names in info["input_order"].items():
            for name in names if group in ("required", "optional") else ():
                options = (*info["input"][group][name], {})[1]
                if not MIN_TOOLTIP <= len(options.get("tooltip") or "") <= MAX_TOOLTIP:
                    wrong.append(f"{node_id}.{name}: {options.get('tooltip')!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.comfy
def test_every_node_is_found_by_what_people_type(object_info: dict[str, Any]):
    """The schema tells in ComfyUI 0.33; older versions search names only, so they begin alike."""
    source = (REPOSITORY / "nodes" / "search_words.py").read_text()
    for node_id in contract.describe(object_info, "wan-duet"):
        assert object_info[node_id]["display_name"].startswith("Wan 2.2 ")
        words = object_info[node_id].get("search_aliases")
        assert f'"{node_id}": (' in source
        assert words is None or {"wan 2.2", "wan22"} <= set(words)


@pytest.mark.comfy
def test_importing_the_pack_imports_nothing_heavy(comfyui: Path, tmp_path: Path):
    script = Path(__file__).with_name("watch_import.py")
    pack = install_pack(tmp_path)
    command = [sys.executable, str(script), str(comfyui), str(pack)]
    environment = os.environ | server_environment()
    output = subprocess.check_output(command, env=environment, cwd=tmp_path, text=True)
    found = json.loads(output)
    assert "torch" in found
    heavy = re.compile(rf"({'|'.join(map(re.escape, sorted(HEAVY)))})(\.|$)")
    assert not [name for name in found if heavy.match(name)]


def changed(**changes: list) -> dict[str, Any]:
    return {"Node": {**copy.deepcopy(NODE), **changes}}


@pytest.mark.parametrize(
    "current",
    [
        changed(),
        changed(optional=[*NODE["optional"], {"name": "new", "type": "INT"}]),
        changed(optional=[{"name": "mode", "type": "COMBO", "choices": ["b", "a", "c"]}]),
    ],
)
def test_additions_keep_the_contract(current: dict[str, Any]):
    assert not contract.broken_promises({"Node": NODE}, current)


@pytest.mark.parametrize(
    "current",
    [
        {},
        {**changed(), "Unrecorded": NODE},
        changed(required=NODE["required"][::-1]),
        changed(required=[NODE["required"][0], {"name": "steps", "type": "FLOAT", "min": 1}]),
        changed(required=[NODE["required"][0], {"name": "steps", "type": "INT", "min": 2}]),
        changed(required=[*NODE["required"], {"name": "new", "type": "INT"}]),
        changed(optional=[{"name": "new", "type": "INT"}, *NODE["optional"]]),
        changed(optional=[{"name": "mode", "type": "COMBO", "choices": ["a"]}]),
        changed(outputs=["LATENT samples"]),
    ],
)
def test_other_changes_break_the_contract(current: dict[str, Any]):
    assert contract.broken_promises({"Node": NODE}, current)
