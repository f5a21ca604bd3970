"""Ray actors that compute together, one per GPU: started, asked, and ended with all faults.

An actor is a process with `wan_model` in it and no ComfyUI. Several ranks wait for one another, so
what fails in one ends all of them; the next run starts new ones.
"""

import math
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ....wan_model import errors
from ....wan_model.errors import BackendError, WanError
from ..host import runtime
from .ray_health import MOST_MISSED, POLL_SECONDS, Health, Session, session_of
from .ray_session import LIBRARY

LAST_WORDS_SECONDS = 2.0
"""How long after one rank's error others are listened to: the one that ended is at fault, and not
those that waited for it."""

MEET_SECONDS = 600.0
"""In which processes are there, which import PyTorch from whatever disk. One that Ray finds no
place for never is."""

LOOK_SECONDS = 5.0
"""Between looks at the cluster's first computer."""

NO_ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "", "PYTORCH_ALLOC_CONF": ""}
"""ComfyUI's choice of an allocator for its own process runs out of memory beside NCCL."""


class ActorTeam:
    """The processes of one forward pass."""

    def __init__(self, ray: Any, ranks: int, *, on_gpu: bool, local: bool) -> None:
        """Starts them; they have to meet before anything else.

        Args:
            ray: connected.
            ranks: how many.
            on_gpu: whether each has a GPU.
            local: whether all run on this computer.

        Raises:
            BackendError: if Ray ends at this moment.
        """
        health = Health.of(ray)
        if health is None:
            raise _ray_ended()
        self._ray, self._health, self._session = ray, health, session_of(ray)
        actor = ray.remote(_actor_class()).options(
            num_gpus=1 if on_gpu else 0,
            num_cpus=0,
            runtime_env={"env_vars": NO_ALLOCATOR},
        )
        device = "cuda:0" if on_gpu else "cpu"
        library = str(LIBRARY) if local else ""
        self._actors = [actor.remote(library, device, rank, ranks) for rank in range(ranks)]
        self._end = weakref.finalize(self, _kill, ray, self._session, self._actors)
        self._local = local

    def meet(self) -> None:
        """Has all ranks know one another.

        Raises:
            BackendError: if one does not start.
        """
        host = "127.0.0.1"
        if not self._local:
            (host,) = self._answers([self._actors[0].address.remote()], MEET_SECONDS)
        first = self._actors[0].call.remote("open_meeting", (host,))
        (port,) = self._answers([first], MEET_SECONDS)
        others = [actor.call.remote("meet", (host, port)) for actor in self._actors]
        self._answers(others, MEET_SECONDS)

    @property
    def ranks(self) -> int:
        """How many there are."""
        return len(self._actors)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked for more."""
        return self._end.alive and session_of(self._ray) == self._session

    def all(self, method: str, *arguments: Any) -> list[Any]:
        """Asks all ranks for the same, and returns their answers.

        Raises:
            BackendError: if a process has ended or failed.
            WanError: what one of them raised. In either case all of them are ended.
        """
        self._look_here()
        # Once for all of them: it may be a whole video.
        sent = self._ray.put(arguments)
        return self._answers([actor.call.remote(method, sent) for actor in self._actors])

    def tell(self, method: str, *arguments: Any) -> None:
        """Asks all ranks for something that has no answer, after what they do now.

        Those that have ended are not asked: Ray would start anew for that.
        """
        if self.is_alive:
            with suppress(self._ray.exceptions.RayError):
                for actor in self._actors:
                    actor.call.remote(method, arguments)

    def close(self) -> None:
        """Ends the processes, whatever they do."""
        self._end()

    def _answers(self, asked: Sequence[Any], limit: float = math.inf) -> list[Any]:
        answers: dict[Any, Any] = {}
        waiting = list(asked)
        missed, next_look = 0, time.monotonic() + LOOK_SECONDS
        deadline = time.monotonic() + limit
        while waiting:
            self._look_here()
            if time.monotonic() > next_look:
                missed = 0 if self._health.head_is_alive else missed + 1
                next_look = time.monotonic() + LOOK_SECONDS
            if missed >= MOST_MISSED or time.monotonic() > deadline:
                self.close()
                raise _ray_ended() if missed else _not_started(limit)
            ready, waiting = self._ray.wait(waiting, timeout=POLL_SECONDS)
            for reference in ready:
                problem, answers[reference] = self._answer(reference)
                if problem is not None:
                    raise self._ended(problem, waiting)
            # What they compute is thrown away when it is done; they are ready for the next then.
            runtime.raise_if_interrupted()
        return [answers[reference] for reference in asked]

    def _look_here(self) -> None:
        """Sees whether Ray can be asked at all: without its part on this computer it would end us.

        Raises:
            ProcessEndedError: if not. All processes are ended then.
        """
        if not (self.is_alive and self._health.here_is_alive):
            self.close()
            raise _ray_ended()

    def _answer(self, reference: Any) -> tuple[WanError | None, Any]:
        """Returns what went wrong, or what a rank answered."""
        try:
            kind, answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return _process_ended(error), None
        if kind == "":
            return None, answer
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, WanError):
            return known(answer), None
        return BackendError(
            f"A process of the distributed model failed. Got {kind}: {answer}, need all of them. "
            "Run the prompt again: they are started anew."
        ), None

    def _ended(self, problem: WanError, waiting: Sequence[Any]) -> WanError:
        """Ends all, and returns the error that was first."""
        ready, _ = (
            self._ray.wait([*waiting], num_returns=max(1, len(waiting)), timeout=LAST_WORDS_SECONDS)
            if waiting
            else ([], [])
        )
        others = [self._answer(reference)[0] for reference in ready]
        self.close()
        for other in others:
            if isinstance(other, ProcessEndedError):
                return other
        return problem


class ProcessEndedError(BackendError):
    """A process that is gone."""


def _process_ended(error: Exception) -> ProcessEndedError:
    reason = str(error).strip().split("\n")[0]
    return ProcessEndedError(
        f"A process of the distributed model has ended. Got '{reason}', need all of them. Run the "
        "prompt again: they are started anew. If it ends again, look into the computer's log: it "
        "may be out of memory."
    )


def _not_started(limit: float) -> BackendError:
    return BackendError(
        f"The processes of the distributed model do not start. Got too few in {limit:.0f} s, need "
        "one for each GPU. See with 'ray status' which computers and GPUs the cluster has."
    )


def _ray_ended() -> ProcessEndedError:
    return ProcessEndedError(
        "Ray has ended, and with it the processes of the distributed model. Got no answer of its "
        "part on this computer or on the cluster's first one, need both. Run the prompt again: Ray "
        "is started anew, or connected with the cluster once that runs again."
    )


def _kill(ray: Any, session: Session | None, actors: Sequence[Any]) -> None:
    """Ends actors, which have ended already with their session: Ray would start anew for them."""
    if session is not None and session_of(ray) == session:
        for actor in actors:
            with suppress(ray.exceptions.RayError):  # its computer is gone
                ray.kill(actor, no_restart=True)


def _actor_class() -> Callable[..., Any]:
    """Returns a class that Ray can send to a process in which this pack is unknown.

    Ray sends a class that is made inside of a function with its code, and all others by the name
    of their module.
    """

    class WanDuetWorker:
        def __init__(self, library: str, device: str, rank: int, ranks: int) -> None:
            import importlib.util
            import sys

            if library:  # else Ray has brought it
                file = f"{library}/__init__.py"
                spec = importlib.util.spec_from_file_location(
                    "wan_model", file, submodule_search_locations=[library]
                )
                assert spec is not None
                assert spec.loader is not None
                package = importlib.util.module_from_spec(spec)
                sys.modules.update({"wan_model": package})
                spec.loader.exec_module(package)
            worker = importlib.import_module("wan_model.worker").Worker
            self._worker = worker(device, rank, ranks)

        def address(self) -> tuple[str, str]:
            """Returns ("", the number under which other computers reach this one)."""
            import ray

            return "", ray.util.get_node_ip_address()

        def call(self, method: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
            """Returns ("", the answer), or the kind of an error and what it says."""
            try:
                return "", getattr(self._worker, method)(*arguments)
            except Exception as error:  # noqa: BLE001 - ComfyUI's process decides what to do
                return type(error).__name__, str(error)

    return WanDuetWorker
