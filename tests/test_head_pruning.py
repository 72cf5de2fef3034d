"""Gates close heads, orders are orders, and importance is the slope that it says."""

import pytest
import torch

from experiments.head_pruning import measure
from experiments.tasks import facts
from experiments.training.seeds import Seeds


@pytest.fixture
def model() -> facts.Facts:
    torch.manual_seed(0)
    return facts.Facts(2, num_heads=4, d_k=4, d_model=16)


@pytest.fixture
def given() -> facts.Batch:
    return facts.draw(torch.Generator().manual_seed(0), 32, 2)


def test_open_gates_change_nothing(model: facts.Facts, given: facts.Batch) -> None:
    loss, accuracy = measure.gated(model, given, torch.ones(1, 4))
    torch.testing.assert_close(loss, facts.loss(model, given)[None])
    torch.testing.assert_close(accuracy, facts.accuracy(model, given)[None])


def test_a_closed_gate_is_a_head_without_rows_in_w_o(model: facts.Facts, given: facts.Batch) -> None:
    loss, _ = measure.gated(model, given, torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]]))
    for place, head in enumerate((2, 0)):
        cut = facts.Facts(2, num_heads=4, d_k=4, d_model=16)
        cut.load_state_dict(model.state_dict())
        cut.w_o.data[4 * head : 4 * head + 4] = 0.0
        torch.testing.assert_close(loss[place], facts.loss(cut, given))


def test_importance_is_the_mean_size_of_the_slope_at_a_heads_gate(
    model: facts.Facts, given: facts.Batch
) -> None:
    """Against central differences, one example and one gate at a time."""
    expected, step = torch.zeros(4), 1e-2
    for example in range(8):
        one = facts.Batch(*(part[example : example + 1] for part in given))
        gates = torch.ones(8, 4) + step * torch.cat([torch.eye(4), -torch.eye(4)])
        up, down = measure.gated(model, one, gates)[0].chunk(2)
        expected += ((up - down) / (2 * step)).abs() / 8
    first = facts.Batch(*(part[:8] for part in given))
    torch.testing.assert_close(measure.importance(model, first), expected, rtol=1e-2, atol=1e-4)


def test_a_head_that_writes_nothing_is_unimportant_and_goes_first(given: facts.Batch) -> None:
    models = Seeds(lambda: facts.Facts(2, num_heads=4, d_k=4, d_model=16), [0, 1])
    both = facts.Batch(*(torch.stack([part, part]) for part in given))
    with torch.no_grad():
        for place, head in enumerate((2, 1)):
            models.parameters["w_o"][place, 4 * head : 4 * head + 4] = 0.0
    assert models.evaluate(measure.importance, both).argmin(1).tolist() == [2, 1]
    order = measure.greedy(models, both, 4)
    assert order.sort(1).values.tolist() == [[0, 1, 2, 3]] * 2
    losses, _ = models.evaluate(measure.gated, both, measure.closing(order)[:, 1:])
    singles, _ = models.evaluate(measure.gated, both, (1 - torch.eye(4)).expand(2, 4, 4))
    torch.testing.assert_close(losses[:, 0], singles.min(1).values)


def test_rows_are_the_same_twice_and_pair_the_orders() -> None:
    options = {"learning_rate": 0.01, "seeds": [0, 1], "steps": 3, "batch_size": 4, "d_model": 16}
    rows = measure.prune(2, 4, random_orders=3, **options)
    assert rows == measure.prune(2, 4, random_orders=3, **options)
    whole = {(row["seed"], row["order"]): row["accuracy"] for row in rows if row["removed"] == 0}
    assert len(whole) == 6
    assert all(whole[seed, order] == pytest.approx(whole[seed, "greedy"]) for seed, order in whole)
