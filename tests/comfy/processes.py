"""Processes that a server has started, and what they started themselves."""

from pathlib import Path

RAY = ("raylet/raylet", "gcs/gcs_server", "ray::WanDuetWorker")
"""Names of those that compute for *Distribute*, and of those that start them.

Ray's own agents hold nothing, and end a minute after these.
"""
WORKER = "ray::WanDuetWorker"


def below(pid: int) -> dict[int, str]:
    """Returns the command lines of all processes below one, by number."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            above = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        parents[int(folder.name)], lines[int(folder.name)] = int(above), line

    def is_below(number: int) -> bool:
        above = parents.get(number, 0)
        return above == pid or (above > 1 and is_below(above))

    return {number: line for number, line in lines.items() if is_below(number)}


def named(processes: dict[int, str], *names: str) -> dict[int, str]:
    """Returns those in whose command line one of the names is."""
    return {n: line for n, line in processes.items() if any(name in line for name in names)}


def is_there(number: int) -> bool:
    """Whether a process runs; one that waits to be noticed by its parent does not."""
    return Path(f"/proc/{number}/exe").exists()
