"""Arms of the recall task: equal size, equal reach, the layers that their names say, the right answers."""

import pytest
import torch

from experiments.ablations import long_range

N = 64


def test_the_answer_is_the_marked_token_at_the_distance() -> None:
    given = long_range.draw(torch.Generator().manual_seed(0), 200, 9)
    values = long_range.VALUES
    for tokens, answer, distance in zip(*given, strict=True):
        (marked,) = [i for i, token in enumerate(tokens) if values <= token < 2 * values]
        assert (int(tokens[marked]) - values, 8 - marked) == (int(answer), int(distance))
        assert tokens[-1] == 2 * values
    assert {*given.distance.tolist()} == {*range(1, 9)}


def test_arms_have_equally_many_parameters() -> None:
    sizes = [sum(p.numel() for p in long_range.Recall(arm, N).parameters()) for arm in long_range.ARMS]
    assert max(sizes) <= 1.05 * min(sizes)


@pytest.mark.parametrize("arm", long_range.ARMS)
@pytest.mark.parametrize("n", [2, 5, N])
def test_the_last_output_depends_on_every_token(arm: str, n: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, n, long_range.ARMS[arm](n)[0], dtype=torch.float64, requires_grad=True)
    read = long_range.ARMS[arm](n)[1].double()
    (gradient,) = torch.autograd.grad(read(x).square().sum(), x)
    assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize(("cell", "layer"), [("LSTMCell", "LSTM"), ("GRUCell", "GRU")])
def test_recurrent_arms_are_torchs(cell: str, layer: str) -> None:
    torch.manual_seed(0)
    ours = long_range.Recurrent(getattr(torch.nn, cell)(3, 5))
    theirs = getattr(torch.nn, layer)(3, 5, batch_first=True)
    theirs.load_state_dict({f"{name}_l0": tensor for name, tensor in ours.cell.state_dict().items()})
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(ours(x), theirs(x)[0][:, -1])


def test_the_lstm_starts_with_open_forget_gates() -> None:
    cell = long_range.lstm(4).cell
    assert (cell.bias_ih + cell.bias_hh)[4:8].tolist() == [1.0] * 4


@pytest.mark.parametrize("arm", long_range.ARMS)
def test_measures_come_out_the_same_twice(arm: str) -> None:
    first, again = (long_range.measure(arm, 8, [0.01, 0.03], [0, 1], 2, 4, 2) for _ in range(2))
    assert first == again
    assert [row["part"] for row in first] == [0, 1] * 4
    assert long_range.gradients(arm, 8, [0, 1]) == long_range.gradients(arm, 8, [0, 1])
