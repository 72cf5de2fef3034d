"""The sequences repeat, the score is the weight on the right key, and the depths share what they can."""

import pytest
import torch
import torch.nn.functional as F

from experiments.induction import measure
from experiments.induction.measure import Batch

SIZES = {"n": 20, "shortest": 3, "longest": 7}


@pytest.fixture
def given() -> Batch:
    return measure.draw(torch.Generator().manual_seed(0), 32, **SIZES)


def test_blocks_are_distinct_tokens_that_come_again(given: Batch) -> None:
    assert given.tokens.shape == (32, SIZES["n"] + 1)
    assert set(given.period.flatten().tolist()) == set(range(3, 8))
    for tokens, period in zip(given.tokens.tolist(), given.period.flatten().tolist(), strict=True):
        assert len(set(tokens[:period])) == period
        assert tokens[period:] == tokens[:-period]


class Copier(torch.nn.Module):
    """Looks for the last previous occurrence of each token by a loop and says what came after it."""

    def forward(self, tokens: torch.Tensor, mask: object) -> torch.Tensor:
        said = torch.full_like(tokens, -1)
        for row, line in zip(tokens.tolist(), said, strict=True):
            for i, token in enumerate(row):
                if token in row[:i]:
                    line[i] = row[i - row[:i][::-1].index(token)]
        return F.one_hot(said + 1, measure.VOCABULARY + 1)[..., 1:].float()


def test_copying_answers_all_that_is_asked_and_guessing_nothing(given: Batch) -> None:
    assert measure.accuracy(Copier(), given) == 1
    wrong = Batch((given.tokens + 1) % measure.VOCABULARY, given.period)
    assert measure.accuracy(Copier(), wrong) == 1, "tokens are names"
    shifted = Batch(given.tokens, given.period - 1)
    assert measure.accuracy(Copier(), shifted) < 1, "asks where nothing has come back yet"


def test_scores_by_a_loop(given: Batch) -> None:
    weights = torch.rand(32, 3, SIZES["n"], SIZES["n"])
    for head, score in enumerate(measure.induction_scores(weights, given.period).tolist()):
        seen = []
        for b, row in enumerate(given.tokens[:, :-1].tolist()):
            for i, token in enumerate(row):
                if token in row[:i]:
                    last = i - 1 - row[:i][::-1].index(token)
                    seen.append(weights[b, head, i, last + 1].item())
        assert score == pytest.approx(sum(seen) / len(seen), rel=1e-5)


def test_strongest_head_looks_at_weights_under_the_causal_mask(given: Batch) -> None:
    torch.manual_seed(0)
    model = measure.model(2, 16)
    torch.nn.init.zeros_(model.blocks[0].attention.query.weight)
    torch.nn.init.zeros_(model.blocks[1].attention.query.weight)
    even = torch.ones(SIZES["n"], SIZES["n"]).tril()
    even = (even / even.sum(-1, keepdim=True)).expand(32, 1, -1, -1)
    expected = measure.induction_scores(even, given.period)
    torch.testing.assert_close(measure.strongest_head(model, given)[None], expected)


def test_depths_share_embedding_aside_from_what_is_drawn_between() -> None:
    models = []
    for layers in (1, 2):
        torch.manual_seed(3)
        models.append(measure.model(layers, 16))
    torch.testing.assert_close(models[0].blocks[0].state_dict(), models[1].blocks[0].state_dict())
    assert [len(model.blocks) for model in models] == [1, 2]


def test_measure_gives_the_same_rows_twice() -> None:
    arm = {"layers": 2, "learning_rates": [0.01], "seeds": [4, 5], "steps": 3, "batch_size": 2, "d_model": 16}
    first, again = (measure.train(**arm, **SIZES) for _ in range(2))
    assert first == again
    assert first[0]["loss"] != first[1]["loss"]
