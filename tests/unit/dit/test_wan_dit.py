"""The whole transformer: batches, text, sizes, dtypes, and how its blocks are run."""

import pytest
import torch
from torch.nn.functional import pad

from tests.unit.dit.toy import BF16, SIZE, first_frame_clean, make_dit, make_inputs
from wan_model.attention import resolve
from wan_model.config import Precision
from wan_model.dit import WanDiT, run_in_order
from wan_model.quant import Linear

KINDS = ["t2v", "i2v", "ti2v"]
FP16 = Precision(compute_dtype=torch.float16)
BF16_RESIDUAL = Precision(compute_dtype=torch.bfloat16, residual_dtype=torch.bfloat16)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_batch_of_two_equals_two_samples(kind):
    model = make_dit(kind)
    inputs = make_inputs(model, 2)
    if kind == "ti2v":
        inputs = inputs._replace(timestep=first_frame_clean(2))
    together = model(*inputs)
    for i in range(2):
        alone = model(*(None if tensor is None else tensor[i : i + 1] for tensor in inputs))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=0.1)


@torch.no_grad()
def test_zero_padding_of_the_text_changes_nothing():
    model = make_dit()
    inputs = make_inputs(model)
    padded = inputs._replace(text=pad(inputs.text, (0, 0, 0, 16 - inputs.text.shape[1])))
    assert torch.equal(model(*inputs), model(*padded))


@torch.no_grad()
def test_padding_tokens_take_part_in_attention():
    # Zero vectors become a constant token through the embedding's biases. Without it: other output.
    model = make_dit()
    inputs = make_inputs(model)
    uncut = model(*inputs)
    cut = make_dit(text_len=inputs.text.shape[1])
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), cut.state_dict().values(), strict=True)
    )
    assert (cut(*inputs) - uncut).abs().max() > 1e-3


@torch.no_grad()
def test_padding_is_embedded_as_zero_vectors():
    model = make_dit()
    embedded = model.embed_text(make_inputs(model).text)
    assert embedded.shape == (1, 16, 48)
    of_zero = model.text_embedding(torch.zeros(1, 20))
    torch.testing.assert_close(embedded[0, 7:], of_zero.expand(9, -1), rtol=0, atol=1e-6)
    assert of_zero.abs().max() > 1e-3


@torch.no_grad()
def test_text_beyond_the_limit_is_for_callers_of_velocity():
    model = make_dit()
    inputs = make_inputs(model)._replace(text=torch.randn(1, 20, 20))
    assert model.velocity(*inputs, run_in_order).isfinite().all()


@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 2, 2), (2, 2, 6), (5, 6, 2)])
@torch.no_grad()
def test_head_widths_and_sizes(num_heads, size):
    model = make_dit(num_heads=num_heads)
    latent = torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(0))
    got = model(*make_inputs(model)._replace(latent=latent))
    assert got.shape == latent.shape
    assert got.isfinite().all()


@torch.no_grad()
def test_the_velocity_of_a_patch_lands_where_the_patch_is():
    # A model whose blocks add nothing sees every patch on its own.
    model = make_dit()
    inputs = make_inputs(model)
    other = inputs.latent.clone()
    other[..., 1, 2:4, 6:8] += 1

    def skip_blocks(_blocks, x, _inputs):
        return x

    first = model.velocity(*inputs, skip_blocks)
    second = model.velocity(*inputs._replace(latent=other), skip_blocks)
    changed = (first - second).abs().amax(dim=(0, 1)) > 1e-5
    expected = torch.zeros(SIZE, dtype=torch.bool)
    expected[1, 2:4, 6:8] = True
    assert torch.equal(changed, expected)


@torch.no_grad()
def test_the_last_axis_of_the_head_is_row_column_channel():
    model = make_dit()
    inputs = make_inputs(model)
    model.head.head.weight.zero_()
    model.head.head.bias = torch.nn.Parameter(torch.arange(64.0), requires_grad=False)
    velocity = model(*inputs)
    for row in range(2):
        for column in range(2):
            pixels = velocity[0, :, :, row::2, column::2]
            channels = torch.arange(16.0) + 16 * (2 * row + column)
            assert torch.equal(pixels, channels.view(16, 1, 1, 1).expand_as(pixels))


@torch.no_grad()
def test_every_dtype_stays_close():
    inputs = make_inputs(make_dit("i2v"))
    exact = make_dit("i2v")(*inputs)
    for precision, limit in ((FP16, 1e-3), (BF16, 8e-3), (BF16_RESIDUAL, 2e-2)):
        got = make_dit("i2v", precision)(*inputs)
        assert got.isfinite().all()
        error = ((got - exact).square().mean() / exact.square().mean()).sqrt()
        assert 0 < error < limit, precision


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", [Precision(), BF16, BF16_RESIDUAL, FP16])
@torch.no_grad()
def test_dtypes(precision, weights):
    seen = []

    def spy(q, k, v):
        seen.append((q.dtype, k.dtype, v.dtype))
        return resolve("sdpa")(q, k, v)

    def look(_module, args, out):
        assert args[0].dtype == out.dtype == precision.residual_dtype
        assert args[1].text.dtype == precision.compute_dtype
        assert args[1].time.rows.dtype == torch.float32

    model = make_dit("i2v", precision).to(weights)
    model.attend = spy
    for block in model.blocks:
        block.register_forward_hook(look)
    inputs = make_inputs(model)
    assert model.velocity(*inputs, run_in_order).dtype == torch.float32
    assert set(seen) == {(precision.compute_dtype,) * 3}
    assert len(seen) == 4
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        latent = inputs.latent.to(dtype)
        assert model(*inputs._replace(latent=latent)).dtype == dtype
        assert model.velocity(*inputs._replace(latent=latent), run_in_order).dtype == torch.float32


@torch.no_grad()
def test_the_runner_sees_all_blocks_once_in_order():
    model = make_dit(num_layers=3)
    inputs = make_inputs(model)
    seen = []

    def runner(blocks, x, block_inputs):
        for block in blocks:
            seen.append(block)
            x = block(x, block_inputs)
        return x

    got = model.velocity(*inputs, runner)
    assert seen == list(model.blocks)
    assert torch.equal(got, model(*inputs))
    backwards = model.velocity(*inputs, lambda b, x, i: run_in_order(reversed(list(b)), x, i))
    assert not torch.allclose(got, backwards, atol=1e-3)


@pytest.mark.parametrize("precision", [Precision(), BF16], ids=["fp32", "bf16"])
@torch.no_grad()
def test_blocks_can_share_one_slot_of_weights(precision):
    # As a block-swap engine would: no block owns weights, each gets the slot just before its turn.
    model = make_dit("i2v", precision, num_layers=3)
    inputs = make_inputs(model)
    expected = model(*inputs)
    host = [{name: t.clone() for name, t in b.state_dict().items()} for b in model.blocks]
    slot = {name: torch.full_like(tensor, torch.nan) for name, tensor in host[0].items()}
    model.blocks.to("meta")

    def swap(blocks, x, block_inputs):
        for block, weights in zip(blocks, host, strict=True):
            for name, tensor in slot.items():
                tensor.copy_(weights[name])
            block.load_state_dict(slot, assign=True)
            x = block(x, block_inputs)
            block.to("meta")
        return x

    assert torch.equal(model.velocity(*inputs, swap).to(inputs.latent.dtype), expected)
    assert all(parameter.is_meta for parameter in model.blocks.parameters())


def test_small_weights_may_stay_on_the_host():
    # Only linears are moved by a memory manager. "meta" is the device, the CPU is the host.
    model = make_dit("i2v")
    inputs = [None if t is None else t.to("meta") for t in make_inputs(model)]
    for module in model.modules():
        if isinstance(module, Linear):
            module.to("meta")
    assert not model.get_parameter("head.modulation").is_meta
    assert model(*inputs).is_meta


@torch.no_grad()
def test_a_model_built_on_the_meta_device_is_filled_by_assignment():
    filled = make_dit("ti2v")
    with torch.device("meta"):
        empty = WanDiT(filled.config, precision=Precision(), attention=resolve("sdpa"))
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(filled.state_dict(), assign=True)
    inputs = make_inputs(filled)
    assert torch.equal(empty(*inputs), filled(*inputs))


@torch.no_grad()
def test_the_attention_function_is_the_one_given():
    def mean_of_values(q, _k, v):
        return v.mean(dim=1, keepdim=True).expand(-1, q.shape[1], -1, -1)

    given = make_dit()
    given.attend = mean_of_values
    inputs = make_inputs(given)
    assert not torch.allclose(given(*inputs), make_dit()(*inputs), atol=1e-3)
