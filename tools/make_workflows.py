"""Writes the workflow templates, their blueprints, and the same workflows for the queue.

All come from one description, so that they cannot drift apart. The node schemas are read from a
ComfyUI that runs with this pack:

    python tools/make_workflows.py http://127.0.0.1:8188
"""

import argparse
import json
import urllib.request
from pathlib import Path
from typing import Any

from long_workflow_specs import LONG_WORKFLOWS
from tiny_workflow_specs import TINY_WORKFLOWS
from workflow_edits import EDITS
from workflow_graphs import to_api, to_blueprint, to_graph
from workflow_specs import WORKFLOWS

PACK = Path(__file__).parents[1]


def write(path: Path, content: Any) -> None:
    """Writes readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    """Writes all workflows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="of a running ComfyUI, or a file with its object_info")
    address = parser.parse_args().address
    if address.startswith("http"):
        with urllib.request.urlopen(f"{address}/object_info") as answer:
            schemas = json.load(answer)
    else:
        schemas = json.loads(Path(address).read_text("utf-8"))
    for workflow in (*WORKFLOWS, *TINY_WORKFLOWS, *LONG_WORKFLOWS, *EDITS):
        write(PACK / "workflows" / f"{workflow.name}.json", to_graph(workflow, schemas))
        write(PACK / "workflows" / "api" / f"{workflow.name}.json", to_api(workflow, schemas))
        # Templates with and without an image may share a blueprint.
        blueprint = to_blueprint(workflow, schemas)
        write(PACK / "subgraphs" / f"{workflow.blueprint}.json", blueprint)


if __name__ == "__main__":
    main()
