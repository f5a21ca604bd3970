"""What a container's limit leaves, and memory that goes back to the system."""

import sys
from pathlib import Path

import pytest
import torch

from tests.unit.loading.checkpoints import dit_state, save
from wan_model import load_dit
from wan_model.errors import MemoryLimitError
from wan_model.host_memory import container_room, give_back
from wan_model.loading import load

GIB = 1 << 30


def group(root: Path, folder: str, **files: object) -> None:
    """Writes the files of a group, double underscores for dots."""
    path = root / "sys/fs/cgroup" / folder
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(f"{content}\n")


def told(root: Path, lines: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    return root


def test_without_a_limit(tmp_path: Path):
    assert container_room(tmp_path) is None
    group(tmp_path, "", memory__stat="file 5")
    group(tmp_path, "a", memory__max="max", memory__current=5, memory__stat="file 5")
    assert container_room(told(tmp_path, "0::/a\n")) is None


@pytest.mark.parametrize("path", ["/outer/inner", "/seen/from/outside"])
def test_the_least_of_all_groups_counts(path: str, tmp_path: Path):
    stat = f"anon {GIB}\nfile {GIB}\nshmem 0"
    inner = {"memory__max": 8 * GIB, "memory__current": 3 * GIB, "memory__stat": stat}
    group(tmp_path, "", **(inner | {"memory__max": 7 * GIB}))
    group(tmp_path, "outer", **(inner | {"memory__max": 4 * GIB}))
    group(tmp_path, "outer/inner", **inner)
    # Used are 2 GiB beside files.
    left = 2 if path == "/outer/inner" else 5
    assert container_room(told(tmp_path, f"0::{path}\n")) == left * GIB


def test_older_groups(tmp_path: Path):
    stat = {"memory__usage_in_bytes": 3 * GIB, "memory__stat": f"total_cache {GIB}"}
    group(tmp_path, "memory/a", memory__limit_in_bytes=4 * GIB, **stat)
    group(tmp_path, "memory", memory__limit_in_bytes=(1 << 63) - 4096, **stat)
    lines = "4:cpu:/x\n3:memory,hugetlb:/a\n0::/\n"
    assert container_room(told(tmp_path, lines)) == 2 * GIB


def test_what_does_not_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = save(tmp_path / "a.safetensors", dit_state(dtype=torch.bfloat16))
    monkeypatch.setattr(load, "container_room", lambda: 1 << 20)
    with pytest.raises(MemoryLimitError, match="does not fit into this container"):
        load_dit(file, dtype=torch.float32)
    load_dit(file)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_goes_back():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) << 12

    pieces = [torch.ones(4096) for _ in range(4000)]  # too small to be given back one by one
    last = pieces.pop()
    full = resident()
    del pieces
    give_back()
    assert full - resident() > 40 << 20
    assert last.sum() == 4096
