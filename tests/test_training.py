"""Seeds trained together learn exactly what each would learn alone, and the lookup task is what it says."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import selfattn as sa
from experiments.tasks import lookup
from experiments.training import seeds as together
from selfattn.nn import (
    Alibi,
    Block,
    FeedForward,
    Learned,
    MultiHeadAttention,
    RelativeBias,
    Rotary,
    Transformer,
    post_norm,
)

SEEDS, RATES = [3, 4, 3], [1e-3, 3e-3, 3e-2]  # one seed twice, at two rates


def next_token(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(tokens[:, :-1], mask=sa.causal).flatten(0, 1), tokens[:, 1:].flatten())


def transformer() -> torch.nn.Module:
    """A part of every kind, and a table that two layers share."""
    table = RelativeBias(2, num_buckets=4, max_distance=4)
    blocks = [
        Block(MultiHeadAttention(8, 2, positions=Rotary(), qk_norm=torch.nn.RMSNorm), FeedForward(8)),
        Block(MultiHeadAttention(8, 4, num_kv_heads=2, positions=Alibi()), norm=torch.nn.Identity),
        Block(MultiHeadAttention(8, 2, positions=table), FeedForward(8, 12), connect=post_norm),
        Block(MultiHeadAttention(8, 2, positions=table)),
    ]
    return Transformer(10, blocks, positions=Learned(8, 8))


def draw_tokens(source: torch.Generator) -> torch.Tensor:
    return torch.randint(10, (4, 9), generator=source)


MODELS: dict[str, tuple[Callable, Callable, Callable]] = {
    "transformer": (transformer, draw_tokens, next_token),
    **{
        arm: (
            partial(lambda compare: lookup.Lookup(compare(8), d_model=16, d_k=8), lookup.ARMS[arm]),
            partial(lookup.draw, size=4),
            lookup.loss,
        )
        for arm in ("none", "QK-norm")
    },
}


def alone(
    seed: int, rate: float, name: str, *, steps: int, clip: float
) -> tuple[torch.nn.Module, list[float]]:
    """The same training in torch's own words, one seed at a time."""
    make, draw, loss = MODELS[name]
    torch.manual_seed(seed)
    model, source, history = make().double(), torch.Generator().manual_seed(~seed), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model, draw(source))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        rising.step()
        history.append(value.item())
    return model, history


@pytest.mark.parametrize("clip", [0.3, 1e6])
@pytest.mark.parametrize("name", MODELS)
def test_together_as_alone(name: str, clip: float) -> None:
    make, draw, loss = MODELS[name]
    models = together.Seeds(lambda: make().double(), SEEDS)
    data = together.batches(draw, SEEDS)
    history = together.train(models, loss, data, steps=12, learning_rate=RATES, warm_up=4, clip=clip)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)
    for place, (seed, rate) in enumerate(zip(SEEDS, RATES, strict=True)):
        model, expected = alone(seed, rate, name, steps=12, clip=clip)
        close(history[:, place], torch.tensor(expected, dtype=torch.float64))
        close(models[place].state_dict(), model.state_dict())


def test_one_rate_for_all_is_each_ones_rate() -> None:
    make, draw, loss = MODELS["none"]
    found = []
    for rate in (1e-2, [1e-2] * 3):
        models = together.Seeds(make, SEEDS)
        found.append(together.train(models, loss, together.batches(draw, SEEDS), steps=3, learning_rate=rate))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_seed_that_diverges_keeps_it_to_itself() -> None:
    make, draw, loss = MODELS["none"]
    histories = []
    for rate in (1e-2, torch.inf):
        models, data = together.Seeds(make, [0, 1]), together.batches(draw, [0, 1])
        histories.append(together.train(models, loss, data, steps=3, learning_rate=[1e-2, rate]))
    torch.testing.assert_close(histories[0][:, 0], histories[1][:, 0], rtol=0, atol=0)
    assert histories[1][-1, 1].isnan()


def test_clipping_bounds_each_seed_by_itself() -> None:
    gradients = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([4.0, 0.4])]
    together.clip_per_seed(gradients, 1.0)
    norms = (gradients[0].square().sum(1) + gradients[1].square()).sqrt()
    torch.testing.assert_close(norms, torch.tensor([1.0, 0.5]))


def test_what_is_frozen_stays() -> None:
    def make() -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        model[0].requires_grad_(False)
        return model

    models = together.Seeds(make, [0, 1])
    before = {name: parameter.detach().clone() for name, parameter in models.parameters.items()}
    data = together.batches(lambda source: torch.randn(4, 2, generator=source), [0, 1])
    together.train(models, lambda model, x: model(x).square().mean(), data, steps=2, learning_rate=0.1)
    changed = {name: not torch.equal(before[name], models.parameters[name]) for name in before}
    assert changed == {"0.weight": False, "0.bias": False, "1.weight": True, "1.bias": True}


def test_an_evaluation_has_neither_gradients_nor_dropout() -> None:
    models = together.Seeds(lambda: torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 3)), [0, 1])
    x = torch.ones(2, 5, 3)
    once, again = (models.evaluate(lambda model, x: model(x), x) for _ in range(2))
    assert torch.equal(once, again)
    assert not once.requires_grad
    torch.testing.assert_close(once[1], models[1].eval()(x[1]))
    dropped = models(lambda model, x: model(x), x)
    assert dropped.requires_grad
    assert not torch.equal(dropped, once)


def test_the_seed_alone_decides_and_the_surroundings_keep_theirs() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    models = together.Seeds(lambda: torch.nn.Linear(2, 2), [5, 6, 5])
    assert torch.equal(torch.rand(3), expected)
    weight = models.parameters["weight"]
    assert torch.equal(weight[0], weight[2])
    assert not torch.equal(weight[0], weight[1])


def test_data_are_not_drawn_from_the_numbers_that_made_the_model() -> None:
    models = together.Seeds(lambda: torch.nn.Embedding(4, 4), [0, 1])
    drawn = next(together.batches(lambda source: torch.randn(4, 4, generator=source), [0, 1]))
    assert not torch.isclose(models.parameters["weight"], drawn).any()


def test_training_learns() -> None:
    make, _, loss = MODELS["QK-norm"]
    models, data = together.Seeds(make, [0, 1]), together.batches(partial(lookup.draw, size=8), [0, 1])
    history = together.train(models, loss, data, steps=300, learning_rate=1e-2)
    assert (history[-20:].mean(0) < 0.7 * history[:20].mean(0)).all()


def test_the_answer_is_the_value_of_the_asked_key() -> None:
    given = lookup.draw(torch.Generator().manual_seed(0), 64)
    assert given.keys.shape == given.values.shape == (64, lookup.PAIRS)
    assert all(len(set(row.tolist())) == lookup.PAIRS for row in given.keys), "keys repeat within a memory"
    hit = given.keys == given.query[:, None]
    assert (hit.sum(1) == 1).all()
    assert (given.values[hit] == given.answer).all()


def fresh(arm: str, d_k: int, seed: int = 0) -> lookup.Lookup:
    torch.manual_seed(seed)
    return lookup.Lookup(lookup.ARMS[arm](d_k), d_model=16, d_k=d_k)


def test_models_of_two_widths_share_all_but_queries_and_keys() -> None:
    narrow, wide = (fresh("none", d_k).state_dict() for d_k in (4, 32))
    assert all(torch.equal(narrow[name], wide[name]) for name in narrow if name not in ("w_q", "w_k"))


def test_arms_share_their_initialization() -> None:
    first = fresh("none", 8).state_dict()
    for arm in lookup.ARMS:
        other = fresh(arm, 8).state_dict()
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_a_perfect_memory_answers_perfectly() -> None:
    """Identity-like parameters written by hand solve the task: the model can express it."""
    d = lookup.KEYS + lookup.VALUES
    keys, values = torch.eye(lookup.KEYS, d), torch.eye(lookup.VALUES, d).roll(lookup.KEYS, 1)
    model = lookup.Lookup(lookup.Scaled(10.0), d_model=d, d_k=lookup.KEYS)
    model.load_state_dict(
        {
            "key_embedding.weight": keys,
            "value_embedding.weight": values,
            "query_embedding.weight": keys,
            "w_q": torch.eye(d)[:, : lookup.KEYS],
            "w_k": torch.eye(d)[:, : lookup.KEYS],
            "w_v": torch.eye(d),
            "w_o": torch.eye(d),
            "w_out": values.mT,
        }
    )
    assert lookup.accuracy(model, lookup.draw(torch.Generator().manual_seed(0), 256)) == 1.0


def test_the_arms_scale_their_scores_as_they_say() -> None:
    q, k = torch.randn(5, 64), torch.randn(7, 64)
    scores = {arm: make(64)(q, k)[0] @ make(64)(q, k)[1].mT for arm, make in lookup.ARMS.items()}
    torch.testing.assert_close(scores["none"], q @ k.mT)
    torch.testing.assert_close(scores["1/√d_k"], q @ k.mT / 8)
    torch.testing.assert_close(scores["1/d_k"], q @ k.mT / 64)
    cosines = q @ k.mT / (q.norm(dim=1)[:, None] * k.norm(dim=1))
    torch.testing.assert_close(scores["QK-norm"].detach(), 8 * cosines)


@pytest.mark.parametrize("d_k", [4, 64])
def test_qk_norm_bounds_the_scores(d_k: int) -> None:
    """Scaling queries up changes nothing under QK-norm, and much without it."""
    given = lookup.draw(torch.Generator().manual_seed(1), 32)
    for arm, same in (("QK-norm", True), ("none", False)):
        quiet, loud = fresh(arm, d_k), fresh(arm, d_k)
        loud.w_q.data *= 100
        assert torch.allclose(quiet(given), loud(given), atol=1e-4, rtol=1e-3) is same
