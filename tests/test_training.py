"""Seeds trained together learn exactly what each would learn alone, and the lookup task is what it says."""

import pytest
import torch

from experiments import lookup, training


def train_lookup(
    seeds: list[int], steps: int = 20, learning_rate: float = 3e-3
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    sources = training.generators(seeds)
    p = lookup.initialize(sources, d_model=16, d_k=8)

    def loss() -> torch.Tensor:
        given = lookup.batch(sources, 8)
        return lookup.losses(lookup.predict(p, given, scale=8**-0.5), given.answer)

    return p, training.train(loss, list(p.values()), steps=steps, learning_rate=learning_rate)


def test_seeds_do_not_mix() -> None:
    together, history = train_lookup([3, 4, 5])
    for place, seed in enumerate([3, 4, 5]):
        alone, single = train_lookup([seed])
        torch.testing.assert_close(history[:, place], single[:, 0], atol=2e-5, rtol=1e-4)
        for name in together:
            torch.testing.assert_close(together[name][place], alone[name][0], atol=2e-4, rtol=1e-3)


def test_training_learns() -> None:
    _, history = train_lookup([0, 1], steps=300, learning_rate=1e-2)
    assert (history[-20:].mean(0) < 0.7 * history[:20].mean(0)).all()


def test_clipping_bounds_each_seed_by_itself() -> None:
    gradients = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[[4.0]], [[0.4]]])]
    training.clip_per_seed(gradients, 1.0)
    norms = (gradients[0].square().sum(1) + gradients[1].flatten(1).square().sum(1)).sqrt()
    torch.testing.assert_close(norms, torch.tensor([1.0, 0.5]))


def test_the_answer_is_the_value_of_the_asked_key() -> None:
    given = lookup.draw(torch.Generator().manual_seed(0), 64)
    assert given.keys.shape == given.values.shape == (64, lookup.PAIRS)
    assert all(len(set(row.tolist())) == lookup.PAIRS for row in given.keys), "keys repeat within a memory"
    hit = given.keys == given.query[:, None]
    assert (hit.sum(1) == 1).all()
    assert (given.values[hit] == given.answer).all()


def test_models_of_two_widths_share_all_but_queries_and_keys() -> None:
    narrow, wide = (lookup.initialize(training.generators([7]), d_model=16, d_k=d_k) for d_k in (4, 32))
    assert all(torch.equal(narrow[name], wide[name]) for name in narrow if name not in ("w_q", "w_k"))


def test_a_perfect_memory_answers_perfectly() -> None:
    """Identity-like parameters written by hand solve the task: the model can express it."""
    d = lookup.KEYS + lookup.VALUES
    keys, values = torch.eye(lookup.KEYS, d), torch.eye(lookup.VALUES, d).roll(lookup.KEYS, 1)
    p = {
        "key_embedding": keys,
        "value_embedding": values,
        "query_embedding": keys,
        "w_q": torch.eye(d)[:, : lookup.KEYS],
        "w_k": torch.eye(d)[:, : lookup.KEYS],
        "w_v": torch.eye(d),
        "w_o": torch.eye(d),
        "w_out": values.mT,
    }
    given = lookup.batch(training.generators([0]), 256)
    logits = lookup.predict({name: parameter[None] for name, parameter in p.items()}, given, scale=10.0)
    assert lookup.accuracies(logits, given.answer).item() == 1.0


@pytest.mark.parametrize("d_k", [4, 64])
def test_qk_norm_bounds_the_scores(d_k: int) -> None:
    """Scaling queries up changes nothing under QK-norm, and much without it."""
    p = lookup.initialize(training.generators([0]), d_model=16, d_k=d_k)
    p["qk_factor"] = torch.ones(1, 1, 1, 1)
    louder = p | {"w_q": 100 * p["w_q"]}
    given = lookup.batch(training.generators([1]), 32)
    torch.testing.assert_close(
        lookup.predict(p, given, qk_norm=True),
        lookup.predict(louder, given, qk_norm=True),
        atol=1e-5,
        rtol=1e-4,
    )
    assert not torch.allclose(lookup.predict(p, given), lookup.predict(louder, given), atol=1e-2)
