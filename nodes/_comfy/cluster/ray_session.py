"""Ray, which starts processes on this computer's GPUs or a cluster's and watches over them.

It is an optional package, imported when it is first needed, and stays started until ComfyUI ends.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ....wan_model.errors import BackendError, SettingsError
from ..host import runtime
from .allowed_clusters import check_allowed
from .ray_health import POLL_SECONDS, Health

INSTALL = "pip install ray"
USED = (
    "available_resources",
    "cluster_resources",
    "exceptions",
    "get",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "wait",
)
"""Names of it that are used here."""

LIBRARY = Path(__file__).parents[3] / "wan_model"
"""What processes need of this pack."""

STORE_BYTES = 1 << 30
"""Of shared memory, which is taken when it is used: for latents, LoRAs, and videos on their way to
and from a VAE. Ray puts on the disk what finds no room there, such as 5 s of 720p in fp32."""

FREE_SECONDS = 30.0
"""In which processes that were ended have given their GPUs back."""

PROCESSES_WITHOUT_GPU = 2
"""On a computer that computes on its processor: more than one, to try things out."""

NAMESPACE = "wanduet:"
"""Before the address that we were connected to, which Ray writes in its own way."""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(7 * 24 * 3600),
}
"""While Ray is imported and starts: it reports nothing to its makers, starts only where we say so,
and does not end ComfyUI a minute after a cluster's first computer has gone."""


def import_ray() -> Any:
    """Returns the package.

    Raises:
        BackendError: if it is not installed, or of a version that lacks what is used here.
    """
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise BackendError(
            f"Ray is missing. Got no usable package 'ray' ({error}), need it for several GPUs. "
            f"Install it into ComfyUI's Python with '{INSTALL}', then start ComfyUI again."
        ) from error
    if missing := [name for name in USED if not hasattr(ray, name)]:
        raise BackendError(
            f"This Ray is another one. Got version {getattr(ray, '__version__', 'unknown')} "
            f"without {', '.join(missing)}, need Ray 2. Install it with '{INSTALL} --upgrade', "
            "then start ComfyUI again."
        )
    return ray


def connected(address: str) -> Any:
    """Returns Ray, connected to a cluster or started on this computer, anew if it has ended.

    Args:
        address: of a cluster, such as "10.0.0.1:6379"; "" for this computer alone.

    Raises:
        BackendError: if Ray is missing, or there is no cluster.
        SettingsError: if this process is connected to another one, another pack's has ended, or
            nobody has allowed the cluster.
    """
    check_allowed(address, os.environ)
    with _environment(ENVIRONMENT):
        ray = import_ray()
    if ray.is_initialized() and _is_there(ray, address):
        return ray
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address:
        options |= {"address": address, "runtime_env": {"py_modules": [str(LIBRARY)]}}
    else:
        options |= {
            "address": "local",
            "num_cpus": 1,  # for each of them it would start a process that waits for work
            "num_gpus": _gpus_here(),
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
        }
    try:
        with _environment(ENVIRONMENT):
            ray.init(logging_level=logging.WARNING, namespace=NAMESPACE + address, **options)
    except Exception as error:  # a start that takes too long has no kind of its own in Ray
        where = f"at {address}" if address else "on this computer"
        raise BackendError(
            f"Ray does not start {where}. Got '{error}', need a running cluster or enough memory "
            "and rights to start one. Check the address, or leave it empty."
        ) from error
    return ray


def _is_there(ray: Any, address: str) -> bool:
    """Whether the cluster that this process is connected to can be used, else disconnects.

    Raises:
        SettingsError: if it is not the wanted one, or another pack's that has ended.
    """
    context = ray.get_runtime_context()
    ours = context.namespace.startswith(NAMESPACE)
    if Health.of(ray) is None:
        if not ours:
            raise SettingsError(
                "Another Ray cluster is in use. Got one that another pack has started and that has "
                "ended, need one that runs. Start ComfyUI again."
            )
        ray.shutdown()  # all teams there are of a session of before from now on
        return False
    # Another pack's is as good as one of this computer, and has a namespace of its own.
    known = context.namespace.removeprefix(NAMESPACE) if ours else ""
    if address not in (known, context.gcs_address):
        raise SettingsError(
            f"Another Ray cluster is in use. Got '{address}', need '{known}', which this "
            "ComfyUI is connected to. Use that one, or start ComfyUI again."
        )
    return True


def workers_of(ray: Any, wanted: int) -> int:
    """Returns how many processes to start; 0 wants one for each GPU.

    Raises:
        SettingsError: if there are fewer GPUs.
    """
    if runtime.compute_device().type != "cuda":
        return wanted or PROCESSES_WITHOUT_GPU
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if wanted > gpus or not gpus:
        raise SettingsError(
            f"There are fewer GPUs. Got {wanted or 'all'} of {gpus}, need 1 to {gpus}. Lower gpus, "
            "or start ComfyUI or the cluster with more."
        )
    return wanted or gpus


def wait_for_gpus(ray: Any, count: int) -> None:
    """Waits until so many GPUs are free: those of a model that was just let go come back soon.

    Raises:
        BackendError: if they are not.
    """
    deadline = time.monotonic() + FREE_SECONDS
    while (free := int(ray.available_resources().get("GPU", 0))) < count:
        if time.monotonic() > deadline:
            raise BackendError(
                f"The GPUs are taken. Got {free} that Ray has free, need {count}. Use one 'Wan 2.2 "
                "Distribute' for both experts, and end other programs on this Ray cluster."
            )
        runtime.raise_if_interrupted()
        time.sleep(POLL_SECONDS)


def _gpus_here() -> int:
    return torch.cuda.device_count() if runtime.compute_device().type == "cuda" else 0


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
