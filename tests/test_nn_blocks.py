"""Blocks and a model of them against torch's own, and what their parts change."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import selfattn as sa
from selfattn.nn import (
    Alibi,
    Block,
    FeedForward,
    Learned,
    MultiHeadAttention,
    RelativeBias,
    Rotary,
    Sinusoidal,
    Transformer,
    post_norm,
    pre_norm,
)

close = partial(assert_close, rtol=1e-6, atol=1e-6)
exact = partial(assert_close, rtol=0, atol=0)
CONNECTIONS = {"pre": pre_norm, "post": post_norm}
every_connection = pytest.mark.parametrize("connect", CONNECTIONS)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(module):
    """The module with every parameter drawn at random, so that none hides by being zero or one."""
    for seed, parameter in enumerate(module.double().parameters()):
        parameter.data = numbers(*parameter.shape, seed=100 + seed) * parameter.shape[-1] ** -0.5
    return module


def from_torch(layer):
    """A block with the matrices of a `torch.nn.TransformerEncoderLayer`."""
    block = Block(
        MultiHeadAttention.from_torch(layer.self_attn),
        FeedForward(layer.linear1.in_features, layer.linear1.out_features),
        connect=pre_norm if layer.norm_first else post_norm,
    ).double()
    block.feed_forward.hidden.load_state_dict(layer.linear1.state_dict())
    block.feed_forward.output.load_state_dict(layer.linear2.state_dict())
    block.attention_norm.load_state_dict(layer.norm1.state_dict())
    block.feed_forward_norm.load_state_dict(layer.norm2.state_dict())
    return block


def torch_layer(connect, d_ff=20):
    first = connect == "pre"
    return torch.nn.TransformerEncoderLayer(
        8, 4, d_ff, dropout=0.0, activation="gelu", batch_first=True, norm_first=first
    )


@pytest.fixture
def tokens():
    return torch.randint(10, (3, 6), generator=torch.Generator().manual_seed(0))


def block(positions=None, **options):
    return Block(MultiHeadAttention(8, 4, positions=positions), FeedForward(8), **options)


def model(positions=None, **options):
    return filled(Transformer(10, [block(**options), block(**options)], positions=positions))


class TestSameAsTorch:
    @every_connection
    @pytest.mark.parametrize("masked", [False, True])
    def test_a_block_forward_and_backward(self, connect, masked):
        theirs = filled(torch_layer(connect))
        ours, xs = from_torch(theirs), [numbers(2, 6, 8).requires_grad_() for _ in range(2)]
        forbidden = torch.ones(6, 6, dtype=torch.bool).triu(1) if masked else None
        expected = theirs(xs[0], src_mask=forbidden)
        output = ours(xs[1], mask=sa.causal if masked else None)
        close(output, expected)
        for result in (output, expected):
            (result * numbers(2, 6, 8, seed=1)).sum().backward()
        close(xs[1].grad, xs[0].grad)
        close(ours.feed_forward.hidden.weight.grad, theirs.linear1.weight.grad)
        close(ours.feed_forward_norm.weight.grad, theirs.norm2.weight.grad)
        close(ours.attention_norm.bias.grad, theirs.norm1.bias.grad)
        close(ours.attention.output.weight.grad, theirs.self_attn.out_proj.weight.grad)

    @every_connection
    @pytest.mark.parametrize("last_norm", [True, False])
    def test_a_model(self, connect, last_norm, tokens):
        encoder = filled(
            torch.nn.TransformerEncoder(
                torch_layer(connect),
                3,
                norm=torch.nn.LayerNorm(8) if last_norm else None,
                enable_nested_tensor=False,
            )
        )
        embedding, table, readout = (numbers(n, 8, seed=n) for n in (10, 7, 11))
        blocks = [from_torch(layer) for layer in encoder.layers]
        ours = Transformer(
            10,
            blocks,
            positions=Learned(7, 8),
            norm=torch.nn.LayerNorm if last_norm else torch.nn.Identity,
        ).double()
        if last_norm:
            ours.norm.load_state_dict(encoder.norm.state_dict())
        ours.embedding.weight.data, ours.positions.table.data = embedding, table
        ours.readout.weight.data, ours.readout.bias.data = readout[:10], readout[10, 0].expand(10)
        forbidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
        hidden = encoder(embedding[tokens] + table[:6], mask=forbidden)
        close(ours(tokens, mask=sa.causal), hidden @ readout[:10].T + readout[10, 0])


class TestAblations:
    @every_connection
    def test_without_a_feed_forward(self, connect):
        ours, x = filled(Block(MultiHeadAttention(8, 4), connect=CONNECTIONS[connect])), numbers(2, 6, 8)
        exact(ours(x), CONNECTIONS[connect](x, ours.attention, ours.attention_norm))
        assert not any("feed_forward" in name for name in ours.state_dict())

    @every_connection
    def test_without_norms(self, connect):
        ours, x = filled(block(connect=CONNECTIONS[connect], norm=torch.nn.Identity)), numbers(2, 6, 8)
        y = x + ours.attention(x)
        close(ours(x), y + ours.feed_forward(y))
        assert not any("norm" in name for name in ours.state_dict())

    def test_without_skip_connections(self):
        ours = filled(block(connect=lambda x, part, norm: part(norm(x))))
        x = numbers(2, 6, 8)
        y = ours.attention(ours.attention_norm(x))
        close(ours(x), ours.feed_forward(ours.feed_forward_norm(y)))

    def test_without_the_output_projection(self):
        ours, same = filled(block()), filled(block())
        same.attention.output.weight.data = torch.eye(8, dtype=torch.float64)
        same.attention.output.bias.data.zero_()
        ours.attention.output = torch.nn.Identity()
        for part in ("feed_forward", "attention_norm", "feed_forward_norm"):
            getattr(ours, part).load_state_dict(getattr(same, part).state_dict())
        close(ours(numbers(2, 6, 8)), same(numbers(2, 6, 8)))

    def test_another_part_than_attention(self):
        class Mean(torch.nn.Module):
            d_model = 8

            def forward(self, x, *, mask=None):
                return x.mean(-2, keepdim=True).expand_as(x)

        x = numbers(2, 6, 8)
        ours = Block(Mean(), norm=torch.nn.Identity)
        close(ours(x), x + x.mean(-2, keepdim=True))


class TestProperties:
    @given(st.permutations(range(6)), st.sampled_from([*CONNECTIONS]))
    def test_without_positions_the_order_is_unknown(self, order, connect):
        ours, tokens = model(connect=CONNECTIONS[connect]), torch.tensor([[1, 7, 3, 3, 0, 9]])
        close(ours(tokens[:, order]), ours(tokens)[:, order])

    @pytest.mark.parametrize("place", ["learned", "sinusoidal", "rotary", "alibi", "relative"])
    def test_with_positions_it_is_known(self, place, tokens):
        added = {"learned": Learned(6, 8), "sinusoidal": Sinusoidal()}
        within = {"rotary": Rotary(), "alibi": Alibi(), "relative": RelativeBias(4, num_buckets=8)}
        ours = model(positions=added.get(place))
        for one in ours.blocks:
            one.attention.positions = within.get(place)
        filled(ours)
        order = [1, 0, 2, 3, 4, 5]
        assert (ours(tokens[:, order]) - ours(tokens)[:, order]).abs().amax() > 1e-3

    @every_connection
    def test_no_leak_from_the_future(self, connect, tokens):
        ours, later = model(connect=CONNECTIONS[connect], positions=Sinusoidal()), tokens.clone()
        later[:, 3:] = (tokens[:, 3:] + 1) % 10
        before, after = ours(tokens, mask=sa.causal), ours(later, mask=sa.causal)
        close(before[:, :3], after[:, :3])
        assert (before[:, 3:] - after[:, 3:]).abs().amin(-1).min() > 0

    def test_any_leading_axes(self):
        ours, tokens = model(), torch.arange(24).reshape(2, 3, 4) % 10
        close(ours(tokens)[1, 2], ours(tokens[1, 2]))

    @pytest.mark.parametrize("depth", [1, 30])
    def test_pre_norm_passes_its_input_on_and_post_norm_keeps_variance_one(self, depth):
        torch.manual_seed(0)
        x = torch.randn(4, 16, 64)
        for connect, grows in ((pre_norm, True), (post_norm, False)):
            y = x
            for _ in range(depth):
                y = Block(MultiHeadAttention(64, 4), FeedForward(64), connect=connect)(y)
            assert (y.var() > 1 + 0.1 * depth) == grows
            assert grows or abs(y.var() - 1) < 0.01


class TestPositions:
    def test_learned(self):
        ours, x = Learned(7, 8), torch.zeros(2, 5, 8)
        exact(ours(x), ours.table[:5].expand(2, 5, 8))
        ours(x).sum().backward()
        assert (ours.table.grad[:5] == 2).all()
        assert (ours.table.grad[5:] == 0).all()

    def test_learned_ends(self):
        with pytest.raises(ValueError, match=r"there are 7 positions; got x torch float32 \(8, 8\)"):
            Learned(7, 8)(torch.zeros(8, 8))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_sinusoidal(self, dtype):
        ours, x = Sinusoidal(), torch.ones(2, 5, 8, dtype=dtype)
        assert ours(x).dtype == dtype
        expected = 1 + torch.from_numpy(sa.sinusoidal(5, 8))
        assert_close(
            ours(x)[1].double(),
            expected,
            atol=2 * torch.finfo(dtype).eps,
            rtol=1e-2 if dtype == torch.bfloat16 else 1e-6,
        )
        assert not [*ours.parameters()]


class TestParameters:
    def test_start_with_variance_one(self):
        torch.manual_seed(0)
        ours, x = FeedForward(64, 200), torch.randn(2000, 64)
        assert (ours.hidden.weight.shape, ours.output.weight.shape) == ((200, 64), (64, 200))
        assert abs(ours.hidden(x).var() - 1) < 0.05
        assert abs(ours.output(torch.randn(2000, 200)).var() - 1) < 0.05
        whole = Transformer(500, [block(), block()], positions=Learned(300, 8))
        assert abs(whole.embedding.weight.var() - 1) < 0.1
        assert abs(whole.positions.table.var() - 1) < 0.1
        assert abs(whole.readout(torch.randn(2000, 8)).var() - 1) < 0.2
        assert all((part.bias == 0).all() for part in (ours.hidden, ours.output, whole.readout))

    def test_a_feed_forward_is_four_times_as_wide_inside(self):
        assert FeedForward(8).hidden.out_features == 32

    def test_a_copy_and_its_state(self, tokens):
        ours = model(positions=Learned(6, 8), connect=post_norm)
        twin, fresh = copy.deepcopy(ours), model(positions=Learned(6, 8), connect=post_norm)
        torch.nn.init.zeros_(fresh.readout.weight)
        fresh.load_state_dict(ours.state_dict())
        exact(fresh(tokens), ours(tokens))
        exact(twin(tokens), ours(tokens))

    def test_says_how_it_connects(self):
        assert "connect=post_norm" in str(block(connect=post_norm))


@pytest.mark.usefixtures("unchecked")
def test_blocks_that_do_not_fit_each_other():
    other = Block(MultiHeadAttention(4, 4))
    with pytest.raises(ValueError, match=r"one d_model; got \[8, 4\]"):
        Transformer(10, [block(), other])
    with pytest.raises(ValueError, match=r"got \[\]"):
        Transformer(10, [])
