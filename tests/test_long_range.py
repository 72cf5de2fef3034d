"""Arms of the recall task: equal size, equal reach, the layers that their names say, the right answers."""

import pytest
import torch

from experiments.long_range import measure

N = 64


def test_the_answer_is_the_marked_token_at_the_distance() -> None:
    given = measure.draw(torch.Generator().manual_seed(0), 200, 9)
    values = measure.VALUES
    for tokens, answer, distance in zip(*given, strict=True):
        (marked,) = [i for i, token in enumerate(tokens) if values <= token < 2 * values]
        assert (int(tokens[marked]) - values, 8 - marked) == (int(answer), int(distance))
        assert tokens[-1] == 2 * values
    assert {*given.distance.tolist()} == {*range(1, 9)}


def test_arms_have_equally_many_parameters() -> None:
    sizes = [sum(p.numel() for p in measure.Recall(arm, N).parameters()) for arm in measure.ARMS]
    assert max(sizes) <= 1.05 * min(sizes)


@pytest.mark.parametrize("arm", measure.ARMS)
@pytest.mark.parametrize("n", [2, 5, N])
def test_the_last_output_depends_on_every_token(arm: str, n: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, n, measure.ARMS[arm](n)[0], dtype=torch.float64, requires_grad=True)
    read = measure.ARMS[arm](n)[1].double()
    (gradient,) = torch.autograd.grad(read(x).square().sum(), x)
    assert (gradient.abs().sum(-1) > 0).all()


@pytest.mark.parametrize(("cell", "layer"), [("LSTMCell", "LSTM"), ("GRUCell", "GRU")])
def test_recurrent_arms_are_torchs(cell: str, layer: str) -> None:
    torch.manual_seed(0)
    ours = measure.Recurrent(getattr(torch.nn, cell)(3, 5))
    theirs = getattr(torch.nn, layer)(3, 5, batch_first=True)
    theirs.load_state_dict({f"{name}_l0": tensor for name, tensor in ours.cell.state_dict().items()})
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(ours(x), theirs(x)[0][:, -1])


def test_the_lstm_starts_with_open_forget_gates() -> None:
    cell = measure.lstm(4).cell
    assert (cell.bias_ih + cell.bias_hh)[4:8].tolist() == [1.0] * 4


@pytest.mark.parametrize("arm", measure.ARMS)
def test_measures_come_out_the_same_twice(arm: str) -> None:
    options = {"learning_rates": [0.01, 0.03], "seeds": [0, 1], "steps": 2, "batch_size": 4}
    first, again = (measure.train(arm, 8, 2, **options) for _ in range(2))
    assert first == again
    assert [row["part"] for row in first] == [0, 1] * 4
    assert measure.gradients(arm, 8, [0, 1]) == measure.gradients(arm, 8, [0, 1])
