"""The largest score is the largest of those that the softmax gets."""

import pytest
import torch

from experiments.qk_norm import measure
from experiments.tasks import lookup


@pytest.mark.parametrize("arm", ["1/√d_k", "QK-norm"])
def test_the_largest_score_is_found(arm: str) -> None:
    torch.manual_seed(0)
    model = lookup.Lookup(lookup.ARMS[arm](8), d_model=16, d_k=8)
    given = lookup.draw(torch.Generator().manual_seed(0), 32)
    facts = torch.nn.functional.layer_norm(
        model.key_embedding(given.keys) + model.value_embedding(given.values), (16,)
    )
    asked = torch.nn.functional.layer_norm(model.query_embedding(given.query), (16,))
    q, k = asked @ model.w_q, facts @ model.w_k
    if arm == "QK-norm":
        q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    expected = torch.einsum("bd,bnd->bn", q, k).abs().max() * (8**0.5 if arm == "QK-norm" else 8**-0.5)
    torch.testing.assert_close(measure.largest_score(model, given), expected)
    model(given)
    assert not model.compare._forward_hooks, "the model is still watched"


def test_rows_are_the_same_twice() -> None:
    options = {"learning_rates": [0.01, 0.1], "seeds": [0, 1], "steps": 3, "batch_size": 4}
    first, again = (measure.train("QK-norm", 8, 16, **options) for _ in range(2))
    assert first == again
    assert all(row["score"] > 0 for row in first)
