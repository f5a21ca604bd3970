"""FreeNoise: later windows hold the first one's noise in another order."""

import torch

from wan_model.sampling import free_noise


def test_windows_hold_the_same_frames_in_another_order():
    noise = torch.randn(1, 2, 23, 3, 3, generator=torch.Generator().manual_seed(0))
    given = noise.clone()
    made = free_noise(noise, 8, 3, seed=1)

    assert torch.equal(noise, given)
    assert torch.equal(made[:, :, :8], given[:, :, :8])
    for start in range(8, 20, 5):
        length = min(5, 23 - start)
        window, earlier = made[0, 0, start : start + length, 0, 0], made[0, 0, start - 8 :, 0, 0]
        assert torch.equal(window.sort().values, earlier[:length].sort().values)
        assert not torch.equal(window, earlier[:length]) or length < 3
    assert not torch.equal(made, free_noise(noise, 8, 3, seed=2))
    assert torch.equal(made, free_noise(noise, 8, 3, seed=1))
