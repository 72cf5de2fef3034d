"""The tasks of several facts and of chained facts are what they say, and their models differ as they say."""

from functools import partial

import pytest
import torch

from experiments.heads.measure import train
from experiments.output_projection import chain
from experiments.tasks import facts


def examples(questions: int, size: int = 64) -> facts.Batch:
    return facts.draw(torch.Generator().manual_seed(0), size, questions)


@pytest.mark.parametrize("questions", [1, 2, 4])
def test_the_answers_are_the_values_of_the_asked_keys(questions: int) -> None:
    given = examples(questions)
    for keys, values, asked, answers in zip(*(part.tolist() for part in given), strict=True):
        assert len(set(keys)) == facts.PAIRS, "keys repeat within a memory"
        assert len(set(asked)) == questions, "a key is asked twice"
        memory = dict(zip(keys, values, strict=True))
        assert [memory[key] for key in asked] == answers


def test_every_answer_is_asked_for_and_none_is_likelier() -> None:
    answers = examples(4, size=4096).answers
    share = torch.nn.functional.one_hot(answers, facts.VALUES).float().mean(0)  # (R, values)
    assert (share - 1 / facts.VALUES).abs().max() < 0.03


def fresh(num_heads: int, d_k: int, questions: int = 4) -> facts.Facts:
    torch.manual_seed(0)
    return facts.Facts(questions, num_heads=num_heads, d_k=d_k, d_model=32)


def test_the_number_of_heads_changes_no_parameter() -> None:
    first = fresh(1, 32).state_dict()
    for num_heads in (2, 4, 8, 16):
        other = fresh(num_heads, 32 // num_heads).state_dict()
        assert first.keys() == other.keys()
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_the_number_of_heads_changes_what_is_found() -> None:
    given = examples(4)
    assert not torch.allclose(fresh(1, 32)(given), fresh(4, 8)(given))
    assert fresh(4, 8).found(given).shape == (64, 4, 1, 8)


def test_wider_heads_share_embeddings_and_readout_with_narrow_ones() -> None:
    narrow, wide = fresh(16, 2).state_dict(), fresh(16, 8).state_dict()
    assert wide["w_q"].shape == (32, 128)
    shared = [name for name in narrow if "embedding" in name or name == "w_out"]
    assert len(shared) == 4
    assert all(torch.equal(narrow[name], wide[name]) for name in shared)


def test_the_order_of_the_facts_says_nothing_and_the_roles_matter() -> None:
    given, model = examples(2), fresh(4, 8, questions=2)
    order = torch.randperm(facts.PAIRS)
    shuffled = given._replace(keys=given.keys[:, order], values=given.values[:, order])
    torch.testing.assert_close(model(given), model(shuffled))
    turned = given._replace(asked=given.asked.flip(1))
    assert not torch.allclose(model(given), model(turned), atol=1e-2)


def test_one_head_for_each_role_answers_perfectly() -> None:
    """Parameters written by hand: head r looks for the key in role r and copies its value to place r."""
    questions, size = 2, facts.KEYS + facts.VALUES
    model = facts.Facts(questions, num_heads=2, d_k=size, d_model=2 * facts.KEYS + facts.VALUES)
    keys, values = torch.eye(facts.KEYS), torch.eye(facts.VALUES)
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state["key_embedding.weight"][:, : facts.KEYS] = keys
    state["value_embedding.weight"][:, -facts.VALUES :] = values
    for role in range(questions):
        asked = slice(role * facts.KEYS, (role + 1) * facts.KEYS)
        state["asked_embedding.weight"][asked, asked] = keys
        head = role * size
        state["w_q"][asked, head : head + facts.KEYS] = 10 * keys
        state["w_k"][: facts.KEYS, head : head + facts.KEYS] = 10 * keys
        state["w_v"][-facts.VALUES :, head : head + facts.VALUES] = values
        place = slice(role * facts.VALUES, (role + 1) * facts.VALUES)
        state["w_o"][head : head + facts.VALUES, place] = values
        state["w_out"][place, place] = values
    model.load_state_dict(state)
    assert facts.accuracy(model, examples(questions, 256)) == 1.0


def test_the_answer_of_a_chain_is_two_steps_away() -> None:
    given = chain.draw(torch.Generator().manual_seed(0), 64)
    for tokens, answer in zip(given.tokens.tolist(), given.answer.tolist(), strict=True):
        *pairs, (asked, mark) = (divmod(token, chain.SIGNS) for token in tokens)
        leads = dict(pairs)
        assert len(leads) == 2 * chain.SYMBOLS, "a symbol leads to two others"
        assert mark == 2 * chain.SYMBOLS
        assert asked < chain.SYMBOLS <= leads[asked]
        assert leads[leads[asked]] == answer < chain.SYMBOLS


def test_a_measure_gives_equal_rows_for_equal_parameters() -> None:
    options = {"learning_rates": [0.01, 0.03], "seeds": [3, 4], "steps": 3, "batch_size": 4}
    again = partial(train, questions=2, num_heads=4, d_k=4, d_model=16, **options)
    rows = again()
    assert rows == again()
    assert [(row["learning_rate"], row["seed"]) for row in rows] == [
        (0.01, 3),
        (0.01, 4),
        (0.03, 3),
        (0.03, 4),
    ]
    alone = train(2, 4, 4, 16, **options | {"learning_rates": [0.03], "seeds": [4]})
    assert alone[0]["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-4)
    assert alone[0]["accuracy"] == pytest.approx(rows[-1]["accuracy"], abs=1e-2)
