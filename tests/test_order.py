"""The order tasks have the answers they claim, and the schemes share all but what they say of order."""

import pytest
import torch

from experiments.positions import measure
from experiments.tasks import order, schemes
from selfattn.nn import Alibi, RelativeBias, Rotary

N, WIDTH = 6, 16


def encoder(scheme: str) -> torch.nn.Module:
    torch.manual_seed(3)
    return measure.encoder(scheme, n=N, d_model=WIDTH)


@pytest.fixture
def tokens() -> torch.Tensor:
    return order.draw(torch.Generator().manual_seed(0), size=5, n=N)


def test_answers_by_a_loop(tokens: torch.Tensor) -> None:
    for row, reverse, before in zip(tokens, order.reversal(tokens), order.previous(tokens), strict=True):
        assert [int(row[N - 1 - i]) for i in range(N)] == reverse.tolist()
        assert [-100, *(int(row[i - 1]) for i in range(1, N))] == before.tolist()


def test_schemes_share_every_matrix() -> None:
    bare = encoder("none").state_dict()
    for scheme in measure.SCHEMES:
        state = encoder(scheme).state_dict()
        own = {name for name in state if name not in bare}
        expected = {
            "learned": {"positions.table"},
            "T5": {f"blocks.{layer}.attention.positions.table" for layer in range(schemes.LAYERS)},
        }
        assert own == expected.get(scheme, set())
        torch.testing.assert_close({name: state[name] for name in bare}, bare, rtol=0, atol=0)


@pytest.mark.parametrize(("scheme", "kind"), [("RoPE", Rotary), ("ALiBi", Alibi), ("T5", RelativeBias)])
def test_relative_schemes_are_in_every_layer(scheme: str, kind: type) -> None:
    assert all(isinstance(block.attention.positions, kind) for block in encoder(scheme).blocks)


def test_t5_has_a_bucket_for_every_distance() -> None:
    table = encoder("T5").blocks[0].attention.positions
    table.table.data = torch.arange(table.table.numel()).reshape(table.table.shape).float()
    q = torch.zeros(schemes.HEADS, N, 4)
    bias = table.bias(q, q)[0]
    assert len(bias.unique()) == 2 * N - 1


@pytest.mark.parametrize("scheme", measure.SCHEMES)
def test_only_order_breaks_equivariance(scheme: str, tokens: torch.Tensor) -> None:
    model = encoder(scheme)
    for block in model.blocks:
        if scheme == "T5":  # its table starts at zero: at first all distances are alike
            torch.nn.init.normal_(block.attention.positions.table)
    error = measure.equivariance_error(model, tokens)
    assert error < 1e-5 if scheme == "none" else error > 0.05


def test_loss_and_accuracy_skip_what_has_no_answer(tokens: torch.Tensor) -> None:
    class Previous(torch.nn.Module):
        """Answers rightly where there is an answer, and 0 at the first place."""

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            answers = order.previous(tokens).clamp(min=0)
            return 100 * torch.nn.functional.one_hot(answers, order.VOCABULARY).float()

    assert order.accuracy(Previous(), tokens, task="previous token") == 1
    assert order.loss(Previous(), tokens, task="previous token") < 1e-6
    assert order.accuracy(Previous(), tokens, task="reversal") < 0.7


def test_measure_gives_the_same_rows_twice() -> None:
    size = {"steps": 3, "batch_size": 2, "n": N, "d_model": WIDTH}
    first, again = (
        measure.train("reversal", "RoPE", learning_rates=[0.01, 0.1], seeds=[4, 5], **size) for _ in range(2)
    )
    assert first == again
    assert [(row["learning_rate"], row["seed"]) for row in first] == [
        (0.01, 4),
        (0.01, 5),
        (0.1, 4),
        (0.1, 5),
    ]


def test_a_pair_has_the_same_data() -> None:
    """The first loss of two schemes that start alike is the same: data and matrices are shared."""
    size = {"steps": 1, "batch_size": 4, "n": N, "d_model": WIDTH}
    losses = [
        measure.train("reversal", scheme, learning_rates=[0.01], seeds=[4], **size)[0]["loss"]
        for scheme in ("none", "T5")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
