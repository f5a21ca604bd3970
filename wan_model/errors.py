"""Typed errors of the library.

Every message has the form "What is wrong. Got X, need Y. Do Z.", so that it can be shown to a
person as it is. The ComfyUI nodes translate them in one place.
"""


class WanError(ValueError):
    """Base of every error that wan_model raises on purpose."""


class CheckpointError(WanError):
    """A file that cannot be loaded as what it was given for: damaged, of another model, unsafe."""


class RelativeError(CheckpointError):
    """A file of Wan's wider family, such as VACE or S2V, which this library has no model for."""


class ShapeError(WanError):
    """A size, frame count or tensor shape that the model cannot work with."""


class SettingsError(WanError):
    """A setting outside its range, or settings that contradict each other."""


class PairingError(WanError):
    """Files or inputs that do not belong together, such as a 5B VAE and an A14B model."""


class BackendError(WanError):
    """A kernel or weight format that was asked for by name and is not available here."""


class EndpointError(WanError):
    """A language model's service that must not be asked, or gives no usable answer."""


class ShortageError(WanError):
    """A file that cannot be read now but perhaps soon: the computer is short of what that takes.

    It says nothing of the file, so nobody may take the file for damaged, or remember it as such.
    """


class UnreadableError(ShortageError, CheckpointError):
    """A file that the system refuses to read: no permission, a drive that does not answer.

    It cannot be loaded, as with any `CheckpointError`, but nothing is known of what is in it.
    """


class MemoryLimitError(ShortageError):
    """A run that does not fit into the memory it may use, with the numbers that show it.

    Attributes:
        limits: names of those limits, of `offload.Limits`, that the message advises to change.
    """

    def __init__(self, message: str, *, limits: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.limits = limits


class NotFiniteError(WanError):
    """A model that computes NaN or infinity, which would become a black video."""
