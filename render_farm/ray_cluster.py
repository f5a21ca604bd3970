"""Ray's cluster: connecting with it, or starting it here, and seeing whether it still is there."""

import errno
import logging
import os
import socket
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from .engine import FarmError

INSTALL = "pip install ray"
PACKAGE = Path(__file__).parent
STORE_BYTES = 100 << 20
"""Of shared memory: next to nothing travels through Ray."""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(7 * 24 * 3600),
}
"""Before Ray is imported: it reports nothing to its makers, starts only where we say so, and does
not end this program, with the queue, a minute after its own service on the first computer has gone.
"""

CONNECT_SECONDS = 3.0
MOST_MISSED = 4
"""After so many looks in a row without an answer, that part of Ray is gone."""

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""Of this program or computer, which say nothing of what was looked at."""


def connected(address: str) -> Any:
    """Returns Ray, connected to a cluster or started on this computer.

    Raises:
        FarmError: if Ray is missing, or there is no cluster.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise FarmError(
            f"Ray is missing. Got no usable package 'ray' ({error}), need it for workers on other "
            f"computers. Install it with '{INSTALL}', or give --without-ray for this one's GPUs."
        ) from error
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    # Workers find this folder's modules through Ray, wherever they lie on their computer.
    options["runtime_env"] = {"py_modules": [str(PACKAGE)]}
    if address:
        options["address"] = address
    else:
        options |= {"address": "local", "num_cpus": 1, "include_dashboard": False}
        options["object_store_memory"] = STORE_BYTES
    try:
        ray.init(logging_level=logging.WARNING, namespace="wanduet-farm", **options)
    except Exception as error:  # a start that takes too long has no kind of its own in Ray
        where = f"at {address}" if address else "on this computer"
        raise FarmError(
            f"Ray does not start {where}. Got '{error}', need a running cluster or enough memory "
            "and rights to start one. Check --address, or leave it out."
        ) from error
    return ray


def is_there(ray: Any) -> bool:
    """Whether Ray still runs on the cluster's first computer and on this one."""
    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    if not _listens(host.strip("[]"), int(port)):
        return False  # and would be waited for
    own = context.get_node_id()
    return any(
        node["NodeID"] == own
        and node["Alive"]
        and _listens(node["NodeManagerAddress"], node["NodeManagerPort"])
        for node in ray.nodes()
    )


def _listens(host: str, port: int) -> bool:
    for _ in range(MOST_MISSED):
        next_look = time.monotonic() + CONNECT_SECONDS
        try:
            with socket.create_connection((host, port), CONNECT_SECONDS):
                return True
        except ConnectionRefusedError:
            return False
        except OSError as error:
            if error.errno in SHORTAGES:
                return True
        time.sleep(max(0.0, next_look - time.monotonic()))  # some errors come at once
    return False
