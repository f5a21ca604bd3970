"""What a backend is: a function, what it takes, and why it cannot run somewhere.

What a kernel needs is data, so that it can be shown, tested and checked in one place. Packages
are imported when a backend is asked for, never before.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

HALF = frozenset({torch.bfloat16, torch.float16})
FLOATS = HALF | {torch.float32}

NEWEST = (99, 0)
"""No upper limit to the compute capability."""

MIN_LOW_PRECISION_TOKENS = 1024
"""Above the 512 tokens of the text, so that no run of video tokens is taken for them."""


class AttentionFn(Protocol):
    """Unmasked attention: q (B, L, H, D), k and v (B, S, H, D) give (B, L, H, D)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Returns softmax(q k^T / sqrt(D)) v; leaves its arguments as they are."""
        ...


class UnavailableError(Exception):
    """Why a backend cannot run here, in words that continue "it ..."."""


def installed_version(distribution: str) -> str | None:
    """Returns the version of an installed package, None if it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Platform:
    """What availability depends on."""

    kind: Literal["cuda", "rocm", "other"]
    """"other": no GPU that takes CUDA kernels."""
    gpu: str = ""
    capability: tuple[int, int] = (0, 0)
    """Compute capability; means nothing outside of CUDA."""
    find: Callable[[str], Any] = import_module
    """Imports a module by name; raises ImportError."""
    version: Callable[[str], str | None] = installed_version

    @classmethod
    def current(cls) -> "Platform":
        """Describes the current device of this process."""
        if not torch.cuda.is_available():
            return cls("other")
        name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        return cls("rocm" if torch.version.hip else "cuda", name, capability)

    def first_of(self, *modules: str) -> Any:
        """Imports the first of these modules that is installed.

        Raises:
            UnavailableError: if none is, or if the one that is does not load.
        """
        for name in modules:
            try:
                return self.find(name)
            except ModuleNotFoundError as error:
                if error.name != name.partition(".")[0]:
                    raise UnavailableError(f"needs {error.name}, which is missing") from error
            except (ImportError, OSError, RuntimeError, AttributeError) as error:
                # Compiled for another PyTorch or CUDA: each package breaks in its own way.
                raise UnavailableError(f"is installed but does not load ({error})") from error
        raise UnavailableError("is not installed")

    def member(self, name: str, *modules: str) -> Any:
        """Returns a function of the first of these modules that is installed.

        Raises:
            UnavailableError: if there is no such module, or no such function in it.
        """
        found = getattr(self.first_of(*modules), name, None)
        if found is None:
            raise UnavailableError(f"is installed in a version without {name}")
        return found


@dataclass(frozen=True)
class Constraints:
    """What a kernel runs on and takes."""

    platforms: frozenset[str] = frozenset({"cuda"})
    at_least: tuple[int, int] = (8, 0)
    below: tuple[int, int] = NEWEST
    """Compute capabilities, on CUDA."""
    dtypes: frozenset[torch.dtype] = HALF
    head_dims: Container[int] = range(8, 257, 8)
    low_precision: bool = False
    """8 bit inside: for self-attention over many video tokens only, see `takes`."""

    def misfit(self, platform: Platform) -> str | None:
        """Returns why the kernel does not run on a platform, None if nothing speaks against it."""
        if platform.kind not in self.platforms:
            return "needs an NVIDIA GPU" + (" or an AMD one" if "rocm" in self.platforms else "")
        if platform.kind == "cuda" and not self.at_least <= platform.capability < self.below:
            upper = "" if self.below == NEWEST else " and below {}.{}".format(*self.below)
            return "needs compute capability {}.{}{}, and {} has {}.{}".format(
                *self.at_least, upper or " or newer", platform.gpu, *platform.capability
            )
        return None

    def takes(self, q: Tensor, k: Tensor) -> bool:
        """Whether a call is meant for this kernel at all.

        8 bit kernels are kept away from cross-attention: its 512 keys are 1.6 % of the work at
        480p (0.7 % at 720p), and the error of so few keys, most of them the same padding, does
        not average out. The shapes tell the two apart.
        """
        tokens = k.shape[1]
        return not self.low_precision or (q.shape[1] == tokens >= MIN_LOW_PRECISION_TOKENS)

    def refusal(self, q: Tensor) -> str | None:
        """Returns "got X, need Y" for a call that the kernel cannot compute, or None."""
        if not q.is_cuda and "other" not in self.platforms:
            return f"Got tensors on {q.device}, need them on the GPU"
        if refusal := self.dtype_refusal(q.dtype):
            return refusal
        if q.shape[-1] not in self.head_dims:
            return f"Got heads of width {q.shape[-1]}, need {shown(self.head_dims)}"
        return None

    def dtype_refusal(self, dtype: torch.dtype) -> str | None:
        """Returns "got X, need Y" for a dtype that the kernel does not take, or None."""
        if dtype in self.dtypes:
            return None
        return f"Got {dtype}, need {' or '.join(sorted(map(str, self.dtypes)))}"


def shown(head_dims: Container[int]) -> str:
    """Returns the widths of heads that a kernel takes, for people."""
    if isinstance(head_dims, range):
        step = f" in steps of {head_dims.step}" if head_dims.step > 1 else ""
        return f"{head_dims[0]} to {head_dims[-1]}{step}"
    return " or ".join(map(str, head_dims)) if isinstance(head_dims, tuple) else str(head_dims)


@dataclass(frozen=True)
class Backend:
    """One way to compute attention."""

    name: str
    label: str
    """What it is, for people."""
    load: Callable[[Platform], AttentionFn]
    """Imports what it needs; raises UnavailableError."""
    constraints: Constraints = field(default_factory=Constraints)
    nominal_error: float = 2.3e-3
    """Rms error relative to exact attention of bf16 data that spreads over all keys. 2.3e-3: bf16
    output and bf16 probabilities, which every 16 bit kernel has."""
    copies: float = 0.0
    """What it keeps of q, k and v beside them while it runs, in tensors as large as 16 bit q."""
    candidate: bool = True
    """Whether "auto" may think of it."""
    distributions: tuple[str, ...] = ()
    """Names under which the package is known to pip."""
    install: str = ""
    """What to do if it is missing."""

    def function(self, platform: Platform) -> AttentionFn:
        """Returns the function.

        Raises:
            UnavailableError: if it cannot run on the platform.
        """
        if misfit := self.constraints.misfit(platform):
            raise UnavailableError(misfit)
        return self.load(platform)

    def unavailable_reason(self, platform: Platform) -> str | None:
        """Returns why it cannot run on the platform, None if it can."""
        try:
            self.function(platform)
        except UnavailableError as error:
            return str(error)
        return None

    def version(self, platform: Platform) -> str:
        """Returns the installed version, "" if it is part of PyTorch."""
        versions = (platform.version(name) for name in self.distributions)
        return next((version for version in versions if version), "")
