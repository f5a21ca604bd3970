"""Whether the cluster that this process is connected to still is there.

Ray ends a process that sends objects when its part on that computer has gone, and one that has not
reached the cluster's first computer for some time. Here that process is ComfyUI, so both are looked
at before Ray is asked for more. Looking is a connection to a port, which is closed again.
"""

import errno
import socket
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from threading import Thread
from typing import Any

from ....wan_model.errors import BackendError
from ..host import runtime

CONNECT_SECONDS = 3.0
"""For a connection with a computer that may be gone."""

MOST_MISSED = 4
"""After so many looks in a row without an answer, nothing that is waited for may ever come."""

ANSWER_SECONDS = 60.0
"""In which the cluster's first computer says which computers there are."""

POLL_SECONDS = 0.1
"""How often the cancel button is looked at."""

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
"""Of this process or computer, which say nothing of what was looked at."""

Place = tuple[str, int]
"""Host and port."""

Session = tuple[str, str]
"""Numbers of this computer's part of Ray, and of the connection with it."""


def session_of(ray: Any) -> Session | None:
    """Returns what tells one connection from any later one, None without one."""
    if not ray.is_initialized():  # or asking would start a Ray
        return None
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()


@dataclass(frozen=True)
class Health:
    """Where the two parts of Ray listen that a connection needs."""

    head: Place
    """On the cluster's first computer."""
    here: Place
    """On this computer."""

    @classmethod
    def of(cls, ray: Any) -> "Health | None":
        """Returns it for a connected Ray, None if either part is gone.

        Raises:
            BackendError: if the cluster's first computer is there, but does not answer.
        """
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        head = (host.strip("[]"), int(port))
        if not _listens(head):
            return None  # or Ray would be waited for
        own = context.get_node_id()
        for node in _nodes(ray):
            if node["NodeID"] == own and node["Alive"]:
                found = cls(head, (node["NodeManagerAddress"], node["NodeManagerPort"]))
                return found if found.here_is_alive else None
        return None

    @property
    def here_is_alive(self) -> bool:
        """Whether objects can be sent and received."""
        return _listens(self.here)

    @property
    def head_is_alive(self) -> bool:
        """Whether somebody would notice that a process has ended, after one look."""
        return _look(self.head) is True


def _listens(place: Place) -> bool:
    """Whether somebody listens there, after some looks where nothing comes back.

    Raises:
        Exception: ComfyUI's own, if the user pressed cancel meanwhile.
    """
    for _ in range(MOST_MISSED):
        next_look = time.monotonic() + CONNECT_SECONDS
        answer = _look(place)
        if answer is not None:
            return answer
        runtime.raise_if_interrupted()
        while time.monotonic() < next_look:  # some errors come at once
            time.sleep(POLL_SECONDS)
            runtime.raise_if_interrupted()
    return False


def _look(place: Place) -> bool | None:
    """Returns whether somebody listens there, None if nothing says so or otherwise."""
    try:
        with socket.create_connection(place, CONNECT_SECONDS):
            return True
    except ConnectionRefusedError:
        return False
    except OSError as error:
        return True if error.errno in SHORTAGES else None


def _nodes(ray: Any) -> list[dict[str, Any]]:
    """Returns the cluster's computers, asked in a thread, since Ray waits without end.

    Raises:
        BackendError: if no answer comes.
    """
    answer: Future[list[dict[str, Any]]] = Future()

    def ask() -> None:
        try:
            answer.set_result(ray.nodes())
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    deadline = time.monotonic() + ANSWER_SECONDS
    while not wait([answer], POLL_SECONDS).done:
        runtime.raise_if_interrupted()
        if time.monotonic() > deadline:
            raise BackendError(
                f"Ray does not answer. Got nothing from the cluster's first computer in "
                f"{ANSWER_SECONDS:.0f} s, need its computers. See there whether 'ray status' "
                "answers, then run the prompt again."
            )
    return answer.result()
