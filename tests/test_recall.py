"""The recall task has the right answers, arms see what they may, and the shared LSTM is torch's."""

import pytest
import torch

from experiments.recall import measure
from experiments.recall.measure import KEYS, QUERIES
from experiments.training import recurrence


def test_answers_are_the_values_behind_the_keys() -> None:
    given = measure.draw(torch.Generator().manual_seed(0), 20, 6)
    for tokens, answers in zip(given.tokens.tolist(), given.answers.tolist(), strict=True):
        facts = dict(zip(tokens[0:12:2], tokens[1:12:2], strict=True))
        assert len(facts) == 6
        assert [facts[key] - KEYS for key in tokens[12:]] == answers


@pytest.mark.parametrize(("arm", "seen"), [("softmax", 12), ("linear", 12), ("LSTM", 12), ("window", 7)])
def test_the_first_query_sees_what_its_arm_may_see(arm: str, seen: int) -> None:
    """Of 12 tokens of facts; the later queries are hidden from it."""
    torch.manual_seed(0)
    x = torch.randn(1, 12 + QUERIES, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(measure.ARMS[arm](8)(x)[0, 0].square().sum(), x)
    reached = gradient[0].abs().sum(-1) > 0
    assert not reached[13:].any()
    assert int(reached[:12].sum()) == seen


def test_arms_share_what_is_not_said_to_differ() -> None:
    def shared(arm: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        state = measure.Recall(arm, 8).state_dict()
        return {name: tensor for name, tensor in state.items() if not name.startswith("join")}

    first, *others = (shared(arm) for arm in measure.ARMS)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


def test_lstm_is_torchs() -> None:
    torch.manual_seed(0)
    cell, layer = torch.nn.LSTMCell(3, 5), torch.nn.LSTM(3, 5, batch_first=True)
    layer.load_state_dict({f"{name}_l0": tensor for name, tensor in cell.state_dict().items()})
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(recurrence.states(cell, x), layer(x)[0])


@pytest.mark.parametrize("arm", measure.ARMS)
def test_measures_come_out_the_same_twice(arm: str) -> None:
    options = {"learning_rates": [0.01, 0.03], "seeds": [0, 1], "steps": 2, "batch_size": 4}
    first, again = (measure.train(arm, 5, 8, **options) for _ in range(2))
    assert first == again
    assert [(row["seed"], row["learning_rate"]) for row in first] == [
        (0, 0.01),
        (1, 0.01),
        (0, 0.03),
        (1, 0.03),
    ]
