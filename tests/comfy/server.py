"""Starts and stops a real ComfyUI server in a folder of its own."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TextIO

from .client import ComfyClient

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = Path(__file__).with_name("launch_comfyui.py")

PACK_ENTRIES = (
    *("__init__.py", "nodes", "wan_model", "js"),
    *("locales", "models", "workflows", "subgraphs"),
)
"""What a running pack consists of; entries that do not exist are passed over."""

GPU_ENVIRONMENT = {"WANDUET_MEMORY": "comfyui", "NVIDIA_TF32_OVERRIDE": "0"}
"""For tests on a GPU: the engine, whose results are compared with ComfyUI's manager, only where it
is asked for, and no matmuls of 10 bits where fp32 is asked for."""

START_SECONDS = 600
STOP_SECONDS = 20


class ServerError(Exception):
    """The server did not start; the message ends with its log."""


class ComfyServer(ComfyClient):
    """A server with the pack installed, running on the CPU while the `with` block lasts.

    Args:
        comfyui: the folder that holds ComfyUI's main.py. Nothing is written there.
        base: an existing folder for models, input, output, user, custom_nodes and the log.
        arguments: more command-line arguments for main.py.
        environment: more environment variables for the server.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._port = ExitStack()
        super().__init__(f"127.0.0.1:{self._port.enter_context(free_ports())}")
        self.comfyui = comfyui
        self.base = base
        self.arguments = arguments
        self.environment = environment or {}
        self.log_path = base / "comfyui.log"
        self._process: subprocess.Popen[str] | None = None
        self._log_file: TextIO | None = None
        for name in ("models", "input", "output", "user", "custom_nodes"):
            (base / name).mkdir(exist_ok=True)

    @property
    def pid(self) -> int:
        """Of the server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> Path:
        """Folder that the server saves into."""
        return self.base / "output"

    def log(self) -> str:
        """Returns everything that the server has written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def output_path(self, file: Mapping[str, str]) -> Path:
        """Returns the path of an output {"filename", "subfolder"} of type "output"."""
        return self.output / file["subfolder"] / file["filename"]

    def __enter__(self) -> "ComfyServer":
        """Starts the server and waits until it answers.

        Raises:
            ServerError: it ended early or did not answer in time.
        """
        self._log_file = self.log_path.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            self._command(),
            cwd=self.base,
            env={**os.environ, **server_environment(), **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log_file,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops the server."""
        self.stop()

    def stop(self) -> None:
        """Ends the server's process, by force if it does not go on its own."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log_file is not None:
            self._log_file.close()
        self._port.close()

    def _command(self) -> list[str]:
        host, port = self.address.split(":")
        # Core's loaders would take 16 bits on a GPU, and the tests compare with them in fp32.
        device = ["--fp32-unet", "--fp32-vae"] if on_gpu() else ["--cpu"]
        return [
            *(sys.executable, str(LAUNCHER), str(self.comfyui / "main.py")),
            *(*device, "--listen", host, "--port", port),
            *("--base-directory", str(self.base), "--database-url", "sqlite:///:memory:"),
            *("--disable-auto-launch", "--disable-api-nodes"),
            *self.arguments,
        ]

    def _wait_until_ready(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerError(f"ComfyUI ended with code {process.returncode}.\n{self.log()}")
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        raise ServerError(f"ComfyUI did not answer within {START_SECONDS} s.\n{self.log()}")


def on_gpu() -> bool:
    """Whether ComfyUI runs on a GPU in these tests, which is for people who have one."""
    return bool(os.environ.get("WANDUET_TEST_GPU"))


def prepare(base: Path, models: Path, helpers: Sequence[str]) -> None:
    """Fills a server's folder: models, the pack, and extensions of this folder by file name."""
    shutil.copytree(models, base / "models")
    install_pack(base / "custom_nodes")
    for name in helpers:
        shutil.copy2(Path(__file__).parent / name, base / "custom_nodes")


def server_environment() -> dict[str, str]:
    """Returns environment variables under which ComfyUI's modules can be imported offline.

    `WANDUET_COMFYUI_PACKAGES` names a folder with torchvision. It stays out of the tests' own
    environment, where a CPU build of torch makes it unusable for other packages.
    """
    packages = os.environ.get("WANDUET_COMFYUI_PACKAGES", "")
    temporary = Path(tempfile.gettempdir())
    paths = [path for path in (packages, os.environ.get("PYTHONPATH", "")) if path]
    return {
        **(GPU_ENVIRONMENT if on_gpu() else {}),
        "PYTHONPATH": os.pathsep.join(paths),
        # Beside no source file, and not compiled anew by every server.
        "PYTHONPYCACHEPREFIX": sys.pycache_prefix or str(temporary / "wanduet_tests_bytecode"),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        # Each server has a user folder of its own, where graphs would be compiled anew.
        "TORCHINDUCTOR_CACHE_DIR": str(temporary / "wanduet_tests_inductor"),
    }


def install_pack(custom_nodes: Path, name: str = "wan-duet") -> Path:
    """Copies the pack into a custom_nodes folder, as `git clone` would leave it."""
    target = custom_nodes / name
    target.mkdir(parents=True)
    for entry in PACK_ENTRIES:
        source = REPOSITORY / entry
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / entry, ignore=ignore)
        elif source.exists():
            shutil.copy2(source, target / entry)
    return target


@contextmanager
def free_ports(count: int = 1) -> Iterator[int]:
    """Gives the first of some TCP ports in a row, which nobody else gets while the block lasts.

    A server listens seconds after it has been told where. On Linux the ports stay bound meanwhile,
    which those do not mind that reuse addresses, as ComfyUI and the farm do.
    """
    while True:
        with ExitStack() as stack:
            ports: list[int] = []
            try:
                for _ in range(count):
                    probe = stack.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", ports[-1] + 1 if ports else 0))
                    ports.append(probe.getsockname()[1])
            except (OSError, OverflowError):
                continue  # the next one is taken, or there is none behind 65535
            if not sys.platform.startswith("linux"):
                stack.close()
            yield ports[0]
            return
