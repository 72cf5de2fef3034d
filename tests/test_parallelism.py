"""The chains that the experiment counts are those of layers that compute what their names say."""

import pytest
import torch

import selfattn as sa
from experiments.parallelism import measure
from experiments.parallelism.measure import D_MODEL, HEADS


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(9, D_MODEL, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_lstm_is_torchs(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, layer = torch.nn.LSTMCell(D_MODEL, D_MODEL), torch.nn.LSTM(D_MODEL, D_MODEL)
    layer.load_state_dict({f"{name}_l0": tensor for name, tensor in cell.state_dict().items()})
    monkeypatch.setattr(torch.nn, "LSTMCell", lambda *_: cell)
    torch.testing.assert_close(measure.lstm(x), layer(x)[0])


def test_generation_is_attention_over_what_it_generated(
    x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = sa.nn.MultiHeadAttention(D_MODEL, HEADS)
    monkeypatch.setattr(sa.nn, "MultiHeadAttention", lambda *_: layer)
    generated = measure.generation(x)
    given = torch.cat([x[:1], generated[:-1]])
    torch.testing.assert_close(generated, measure.attention(given))


@pytest.mark.parametrize("n", [2, 9, 16, 17])
def test_the_last_convolution_sees_the_first_token_and_none_sees_a_later_one(n: int) -> None:
    x = torch.randn(n, D_MODEL, requires_grad=True)
    torch.manual_seed(1)
    y = measure.convolution(x)
    (last,) = torch.autograd.grad(y[-1].sum(), x, retain_graph=True)
    (first,) = torch.autograd.grad(y[0].sum(), x)
    assert last[0].abs().sum() > 0
    assert first[1:].abs().sum() == 0


def test_a_chain_is_the_longest_of_several_paths() -> None:
    w = torch.eye(2, requires_grad=True)
    assert measure.longest_chain((w @ w @ w) + w @ w + w.exp()) == 2
    assert measure.longest_chain(w.exp()) == 0


def test_counts_come_out_the_same_twice() -> None:
    for arm in measure.ARMS:
        assert measure.count(arm, [2, 5]) == measure.count(arm, [2, 5])
