"""One question to an OpenAI-compatible service, with limits: the only code that opens a network.

It connects to the one address that it is given, follows no redirection, uses no proxy, and keeps
nothing open. What comes back is not trusted: it is limited in time and size, and plain text.
"""

import base64
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import EndpointError
from .endpoint import HTTPS, Endpoint

MAX_BODY = 256 << 10
"""Bytes of an answer."""
MAX_TEXT = 6000
"""Characters of a prompt; Wan reads 512 tokens."""
MAX_TOKENS = 2048
"""That a model may write, with its thoughts."""
POLL_SECONDS = 0.1
CHUNK = 16 << 10
GRACE = 5.0
"""Seconds after which a thread that nobody waits for any more ends by itself."""

THOUGHTS = re.compile(r"^.*</think>|<think>.*", re.DOTALL | re.IGNORECASE)
LABEL = re.compile(r"^\s*(?:\*\*)?(?:rewritten |final |video )?prompt(?:\*\*)?\s*:\s*", re.I)


@dataclass(frozen=True)
class Question:
    """What a language model is asked."""

    model: str
    instruction: str
    idea: str
    image: bytes | None = None
    """A JPEG file."""
    attempt: int = 0
    """Another number asks for another answer."""

    def body(self) -> bytes:
        """Returns the request as JSON."""
        content: Any = self.idea
        if self.image is not None:
            data = base64.b64encode(self.image).decode()
            image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
            content = [image, {"type": "text", "text": self.idea}]
        messages = [
            {"role": "system", "content": self.instruction},
            {"role": "user", "content": content},
        ]
        request = {
            "model": self.model,
            "messages": messages,
            "stream": False,
            "seed": self.attempt,
            "max_tokens": MAX_TOKENS,
        }
        return json.dumps(request).encode()


def ask(endpoint: Endpoint, question: Question, seconds: float, watch: Callable[[], None]) -> str:
    """Returns a language model's answer, cleaned.

    Args:
        endpoint: who is asked.
        question: what.
        seconds: that it may take in all.
        watch: called some times a second; what it raises ends the request.

    Raises:
        EndpointError: if there is no usable answer.
    """
    request = _Request(endpoint, question.body(), seconds)
    request.start()
    deadline = time.monotonic() + seconds
    try:
        while request.is_alive():
            request.join(POLL_SECONDS)
            watch()
            if request.is_alive() and time.monotonic() > deadline:
                raise EndpointError(
                    f"The language model did not answer in time. Got nothing whole within "
                    f"{seconds:g} s, need an answer. Raise the time limit, or take a smaller model."
                )
    finally:
        request.close()
    if request.failure is not None:
        raise request.failure
    return cleaned(_content(request.answer))


class _Request(threading.Thread):
    """A request that another thread can end at any time."""

    def __init__(self, endpoint: Endpoint, body: bytes, seconds: float) -> None:
        super().__init__(daemon=True)
        secure = endpoint.scheme == HTTPS
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._connection = kind(endpoint.host, endpoint.port, timeout=seconds + GRACE)
        self._endpoint, self._body = endpoint, body
        self._socket: socket.socket | None = None
        self._ended = False
        self.answer = b""
        self.failure: EndpointError | None = None

    def run(self) -> None:
        """Asks; leaves the answer or the failure."""
        try:
            self.answer = self._asked()
        except EndpointError as error:
            self.failure = error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = self._without_key(shown(str(error)))
            self.failure = EndpointError(
                f"The language model cannot be reached. Got {reason or 'no answer'} from "
                f" {self._endpoint.host}:{self._endpoint.port}, need an OpenAI-compatible "
                "service. Start it, or correct the address."
            )

    def _without_key(self, text: str) -> str:
        """Services and libraries quote the key that they refuse."""
        return text.replace(self._endpoint.key, "***") if self._endpoint.key else text

    def _asked(self) -> bytes:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._endpoint.key:
            headers["Authorization"] = f"Bearer {self._endpoint.key}"
        self._connection.connect()
        self._socket = self._connection.sock
        if self._ended:  # while it connected, which nothing can end
            raise OSError("ended")
        self._connection.request("POST", self._endpoint.path, self._body, headers)
        response = self._connection.getresponse()
        answer = b""
        while len(answer) <= MAX_BODY and not self._ended and (part := response.read1(CHUNK)):
            answer += part
        if len(answer) > MAX_BODY:
            raise EndpointError(
                f"The language model's answer is too long. Got more than {MAX_BODY >> 10} KiB, "
                "need a prompt. Try another model."
            )
        if response.status != http.HTTPStatus.OK:
            reason = self._without_key(_reason(answer))
            raise EndpointError(
                f"The language model refused. Got HTTP {response.status} {reason}, need "
                "200. Check the model's name, its key, and whether it can see images."
            )
        return answer

    def close(self) -> None:
        """Ends the request, wherever it is."""
        self._ended = True
        if self._socket is not None:
            with suppress(OSError):  # it has ended by itself
                self._socket.shutdown(socket.SHUT_RDWR)
        if not self.is_alive():
            self._connection.close()


def _reason(answer: bytes) -> str:
    """Returns what an answer says of an error, as plain text."""
    try:
        found = json.loads(answer)["error"]
        return shown(str(found["message"] if isinstance(found, dict) else found))
    except (ValueError, LookupError, TypeError, RecursionError):
        return shown(answer.decode("utf-8", "replace"))


def _content(answer: bytes) -> str:
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _no_prompt(answer.decode("utf-8", "replace")) from error
    if not isinstance(content, str):
        raise _no_prompt(str(content))
    return content


def cleaned(text: str) -> str:
    """Returns an answer as a prompt: one paragraph of plain text.

    Raises:
        EndpointError: if nothing is left of it, or too much.
    """
    kept = THOUGHTS.sub(" ", text).strip().strip("`").strip()
    kept = plain(LABEL.sub("", kept)).strip("\"'\u201c\u201d* ")
    if not kept:
        raise _no_prompt(text)
    if len(kept) > MAX_TEXT:
        raise EndpointError(
            f"The language model's answer is too long. Got {len(kept)} characters, need at most "
            f"{MAX_TEXT}. Try another model."
        )
    return kept


def plain(text: str) -> str:
    """Returns text without line breaks, control characters and what could be markup."""
    letters = (letter if letter.isprintable() and letter not in "<>" else " " for letter in text)
    return " ".join("".join(letters).split())


def shown(text: str) -> str:
    """Returns the beginning of a stranger's text, for a message."""
    return plain(text[:2000])[:200]


def _no_prompt(text: str) -> EndpointError:
    return EndpointError(
        f"The language model gave no prompt. Got '{shown(text)}', need an answer with text. Try "
        "another model, or a higher attempt."
    )
