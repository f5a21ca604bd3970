"""A client of ComfyUI's HTTP and WebSocket interface, like a program that queues videos."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import websocket

Prompt = Mapping[str, Mapping[str, Any]]
"""A workflow in API format: node id -> {"class_type", "inputs"}."""

NOTHING: Prompt = {"nothing": {"class_type": "PreviewAny", "inputs": {"source": "nothing"}}}

PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4

Status = Literal["success", "error", "interrupted"]

END_MESSAGES: Mapping[str, Status] = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "interrupted",
}


class PromptRejected(Exception):  # noqa: N818
    """The server refused a prompt before running it."""

    def __init__(self, status: int, error: dict[str, Any], node_errors: dict[str, Any]) -> None:
        super().__init__(f"HTTP {status}: {error.get('message')} {json.dumps(node_errors)}")
        self.status = status
        self.error = error
        self.node_errors = node_errors


@dataclass(frozen=True)
class Message:
    """One JSON message of the WebSocket."""

    type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Preview:
    """One image sent while sampling. `image` is a JPEG or PNG file."""

    image: bytes
    node_id: str | None


@dataclass(frozen=True)
class RunResult:
    """What a client learnt about one prompt."""

    prompt_id: str
    status: Status
    outputs: dict[str, dict[str, Any]]
    """Node id -> what the node shows, such as {"images": [{"filename", "subfolder", "type"}]}."""
    messages: list[Message] = field(repr=False)
    previews: list[Preview] = field(repr=False)

    @property
    def error(self) -> dict[str, Any] | None:
        """The `execution_error` message: exception_message, exception_type, node_id, traceback."""
        return next((m.data for m in self.messages if m.type == "execution_error"), None)

    @property
    def executed(self) -> list[str]:
        """Ids of the nodes that ran, in order; nodes whose result was cached are left out."""
        nodes = [m.data["node"] for m in self.messages if m.type == "executing"]
        return [node for node in nodes if node is not None]

    def texts(self, node_id: str) -> list[str]:
        """Returns every text that was shown under a node, in order."""
        data = [m.data for m in self.messages if m.type in ("progress_text", "wanduet.said")]
        return [d["text"] for d in data if d["node"] == node_id]

    def progress(self, node_id: str) -> list[tuple[float, float]]:
        """Returns (value, maximum) of every progress message of a node, in order."""
        data = [m.data for m in self.messages if m.type == "progress"]
        return [(d["value"], d["max"]) for d in data if d["node"] == node_id]


class ComfyClient:
    """Talks to one server; every call raises `urllib.error.URLError` when it cannot be reached."""

    def __init__(self, address: str) -> None:
        self.address = address
        """Host and port, such as "127.0.0.1:8188"."""

    @property
    def url(self) -> str:
        """Address of the graph editor."""
        return f"http://{self.address}"

    def request(
        self, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> bytes:
        """Sends GET, or POST if there is a body, and returns the answer's body."""
        request = urllib.request.Request(self.url + path, data=body)
        if body is not None:
            request.add_header("Content-Type", content_type)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        """Returns the JSON at `path`."""
        return json.loads(self.request(path))

    def post(self, path: str, value: object) -> Any:
        """Posts JSON and returns the JSON of the answer, None if it is empty."""
        answer = self.request(path, json.dumps(value).encode())
        return json.loads(answer) if answer else None

    def object_info(self, node: str = "") -> dict[str, Any]:
        """Returns the description of every node, or of one."""
        return self.get(f"/object_info/{node}" if node else "/object_info")

    def history(self, prompt_id: str) -> dict[str, Any]:
        """Returns the record of a finished prompt, {} while it is unfinished."""
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def interrupt(self) -> None:
        """Stops the prompt that runs."""
        self.post("/interrupt", {})

    def free(self, *, unload_models: bool = True, free_memory: bool = True) -> None:
        """Has the server unload models and forget cached results before the next prompt.

        One that still tidies up after a prompt does not hear of it, and takes another first; so
        there is one that does nothing, and a second one behind which that is over.

        Raises:
            RuntimeError: one of them failed.
        """
        self.post("/free", {"unload_models": unload_models, "free_memory": free_memory})
        for _ in range(2):
            ended = self.run(NOTHING)
            if ended.status != "success":
                raise RuntimeError(f"No prompt works. Got {ended.error or ended.status}.")

    def upload_image(self, path: Path) -> str:
        """Uploads an image into the input folder and returns the name for LoadImage."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{path.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        tail = (
            f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\n'
            f"true\r\n--{boundary}--\r\n"
        )
        body = head.encode() + path.read_bytes() + tail.encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return json.loads(self.request("/upload/image", body, kind))["name"]

    def view(self, file: Mapping[str, str]) -> bytes:
        """Returns the content of an output: {"filename", "subfolder", "type"}."""
        query = {key: file.get(key, "") for key in ("filename", "subfolder", "type")}
        return self.request("/view?" + urllib.parse.urlencode(query))

    def queue(self, prompt: Prompt, client_id: str = "", **more: Any) -> str:
        """Queues a prompt, with more in its request, and returns its id.

        Raises:
            PromptRejected: the server found it invalid.
        """
        try:
            body = {"prompt": prompt, "client_id": client_id, **more}
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as refusal:
            answer = json.loads(refusal.read())
            raise PromptRejected(
                refusal.code, answer["error"], answer.get("node_errors") or {}
            ) from None

    def run(
        self,
        prompt: Prompt,
        timeout: float = 600,
        on_message: Callable[[Message], None] | None = None,
        *,
        as_editor: bool = False,
        **more: Any,
    ) -> RunResult:
        """Runs a prompt to its end and returns everything that was sent about it.

        Args:
            prompt: the workflow in API format.
            timeout: seconds.
            on_message: called with each message as it comes, for instance to interrupt.
            as_editor: tell the pack that this client shows what the editor's extension does.
            more: in the request.

        Raises:
            PromptRejected: the server found the prompt invalid.
            TimeoutError: it did not end in time.
        """
        client_id = uuid.uuid4().hex
        socket = websocket.create_connection(
            f"ws://{self.address}/ws?clientId={client_id}", timeout=timeout
        )
        try:
            flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            socket.send(json.dumps(flags))
            if as_editor:
                self.get(f"/wanduet/hello?client_id={client_id}")
            prompt_id = self.queue(prompt, client_id, **more)
            messages, previews = _listen(socket, prompt_id, timeout, on_message)
        finally:
            socket.close()
        status: Status = next(END_MESSAGES[m.type] for m in messages if m.type in END_MESSAGES)
        outputs = self.history(prompt_id).get("outputs", {})
        return RunResult(prompt_id, status, outputs, messages, previews)


def _listen(
    socket: websocket.WebSocket,
    prompt_id: str,
    timeout: float,
    on_message: Callable[[Message], None] | None,
) -> tuple[list[Message], list[Preview]]:
    """Collects messages until the server says that the prompt's record is complete."""
    deadline = time.monotonic() + timeout
    messages: list[Message] = []
    previews: list[Preview] = []
    while True:
        socket.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            received = socket.recv()
        except websocket.WebSocketTimeoutException:
            seen = ", ".join(m.type for m in messages[-5:])
            raise TimeoutError(f"No end after {timeout} s. The last messages: {seen}.") from None
        if isinstance(received, bytes):
            previews += _previews(received)
            messages += _texts(received)
            continue
        message = Message(**json.loads(received))
        if message.data.get("prompt_id", prompt_id) != prompt_id:
            continue
        messages.append(message)
        if on_message:
            on_message(message)
        if message.type == "executing" and message.data["node"] is None:
            return messages, previews


def _previews(frame: bytes) -> list[Preview]:
    """Decodes a binary frame: an event number, then a payload. No image: an empty list."""
    event = int.from_bytes(frame[:4], "big")
    if event == PREVIEW_IMAGE:
        return [Preview(frame[8:], None)]
    if event == PREVIEW_IMAGE_WITH_METADATA:
        length = int.from_bytes(frame[4:8], "big")
        metadata = json.loads(frame[8 : 8 + length])
        return [Preview(frame[8 + length :], metadata["node_id"])]
    return []


def _texts(frame: bytes) -> list[Message]:
    """Decodes a binary frame that holds text for a node. Anything else: an empty list."""
    if int.from_bytes(frame[:4], "big") != TEXT:
        return []
    end = 8 + int.from_bytes(frame[4:8], "big")
    data = {"node": frame[8:end].decode(), "text": frame[end:].decode()}
    return [Message("progress_text", data)]
