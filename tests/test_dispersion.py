"""The search task has one largest item that is as easy to find at any n; weighings are what they say."""

import pytest
import torch

from experiments.dispersion import measure

SETTING = {
    "learning_rates": [0.01, 0.1],
    "seeds": [0, 1],
    "steps": 2,
    "batch_size": 4,
    "d_model": 8,
    "trained_n": 4,
}


@pytest.mark.parametrize("n", [2, 1000])
def test_the_largest_item_leads_by_the_same_margin_at_any_length(n: int) -> None:
    given = measure.draw(torch.Generator().manual_seed(0), 50, n)
    sizes = given.size.sort(-1, descending=True)
    assert (sizes.values[:, 0] == 1).all()
    assert (sizes.values[:, 1] <= measure.OTHERS).all()
    assert (sizes.indices[:, 0] == given.place).all()


def test_weighings_share_their_scores_and_agree_at_the_trained_length() -> None:
    scores = torch.tensor([[[0.0, 2.0, 1.0, -1.0]]])
    weights = measure.weighings(scores, trained_n=4)
    torch.testing.assert_close(weights["softmax"], scores.softmax(-1))
    torch.testing.assert_close(weights["log n"], weights["softmax"])
    assert weights["hard"].tolist() == [[[0, 1, 0, 0]]]
    longer = measure.weighings(scores, trained_n=2)["log n"]
    torch.testing.assert_close(longer, (2 * scores).softmax(-1))


def test_the_order_of_the_items_does_not_matter() -> None:
    torch.manual_seed(0)
    model, order = measure.Search(8), torch.randperm(9)
    given = measure.draw(torch.Generator().manual_seed(0), 5, 9)
    turned = measure.Batch(given.size[:, order], given.kind[:, order], order.argsort()[given.place])
    torch.testing.assert_close(model(turned), model(given))
    torch.testing.assert_close(measure.loss(model, turned), measure.loss(model, given))


def test_measures_come_out_the_same_twice() -> None:
    first, again = (measure.train(lengths=[4, 9], **SETTING) for _ in range(2))
    assert first == again
    assert len(first) == 2 * 2 * 2 * 3
    exact, repeated = (measure.deviation([0.0, 3.0], [2, 5], [0, 1]) for _ in range(2))
    assert exact == repeated
