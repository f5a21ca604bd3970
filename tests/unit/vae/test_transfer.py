"""Chunks that need no GPU are handed out at once; `test_gpu` shows the others."""

import torch
from torch import Tensor

from wan_model.vae.transfer import Outbox, send


def test_chunks_of_the_host_are_handed_out_at_once() -> None:
    outbox = Outbox(torch.device("cpu"))
    taken: list[Tensor] = []
    for number in range(2):
        outbox.put(torch.full((2,), number), taken.append)
        assert len(taken) == number + 1
    outbox.empty()
    assert [int(chunk[0]) for chunk in taken] == [0, 1]


def test_what_is_sent_has_the_dtype_that_is_wanted() -> None:
    x = torch.arange(6).view(2, 3)[:, 1:]
    sent = send(x, torch.device("cpu"), torch.float32)
    assert sent.dtype == torch.float32
    assert torch.equal(sent, x.float())
