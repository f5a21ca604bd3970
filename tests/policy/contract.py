"""What a saved workflow relies on: node ids, the order and kind of inputs, and the outputs."""

import json
from pathlib import Path
from typing import Any

CONTRACT = Path(__file__).with_name("node_contract.json")

Description = dict[str, Any]


def describe(object_info: dict[str, Any], pack: str) -> Description:
    """Returns the contract of a pack's nodes, from ComfyUI's /object_info.

    Args:
        object_info: the server's answer.
        pack: folder of the pack in custom_nodes.
    """
    nodes = {
        node_id: info
        for node_id, info in sorted(object_info.items())
        if info["python_module"] == f"custom_nodes.{pack}"
    }
    return {node_id: describe_node(info) for node_id, info in nodes.items()}


def describe_node(info: dict[str, Any]) -> Description:
    """Returns the contract of one node."""
    groups = {
        group: [describe_input(name, *info["input"][group][name]) for name in names]
        for group, names in info["input_order"].items()
        if group in ("required", "optional")
    }
    outputs = [
        f"{kind} {name}" for kind, name in zip(info["output"], info["output_name"], strict=True)
    ]
    return {"required": [], "optional": [], **groups, "outputs": outputs}


def describe_input(name: str, kind: Any, options: dict[str, Any] | None = None) -> Description:
    """Returns name, type, default, range and choices of one input."""
    options = options or {}
    # Where only nodes give a value, a "min" keeps others out, see `checked_inputs.linked`.
    options = {} if options.get("min") and kind not in ("INT", "FLOAT") else options
    kept = {key: options[key] for key in ("default", "min", "max", "step") if key in options}
    if isinstance(kind, list):
        kind, options = "COMBO", {"options": kind}
    described = {"name": name, "type": kind, **kept}
    choices = options.get("options", [])
    if choices and not any("." in str(choice) for choice in choices):  # not a list of files
        described["choices"] = choices
    return described


def broken_promises(recorded: Description, current: Description) -> list[str]:
    """Returns what a workflow saved with the recorded nodes would stumble over.

    Optional inputs and choices may be added at the end; anything else counts.
    """
    broken = [f"{node_id}: not recorded yet" for node_id in current.keys() - recorded.keys()]
    for node_id, old in recorded.items():
        new = current.get(node_id)
        if new is None:
            broken.append(f"{node_id}: gone")
            continue
        for group in ("required", "outputs"):
            if not same(old[group], new[group]):
                broken.append(f"{node_id}: {group} changed\n  {old[group]}\n  {new[group]}")
        if not same(old["optional"], new["optional"][: len(old["optional"])]):
            broken.append(f"{node_id}: optional\n  {old['optional']}\n  {new['optional']}")
    return broken


def same(old: list[Any], new: list[Any]) -> bool:
    """Tells whether two lists of inputs or outputs agree, but for choices that were added."""
    if len(old) != len(new):
        return False
    for before, after in zip(old, new, strict=True):
        if isinstance(before, str) or isinstance(after, str):
            if before != after:
                return False
            continue
        if not set(before.get("choices", [])) <= set(after.get("choices", [])):
            return False
        if {**before, "choices": None} != {**after, "choices": None}:
            return False
    return True


def load() -> Description:
    """Returns the recorded contract."""
    return json.loads(CONTRACT.read_text(encoding="utf-8"))


def record(description: Description) -> None:
    """Writes the contract; to be done on purpose only."""
    text = json.dumps(description, indent=1, ensure_ascii=False)
    CONTRACT.write_text(text + "\n", encoding="utf-8")
