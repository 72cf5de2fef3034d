"""Every context length is asked for the same characters, and the schemes differ in positions only."""

import math

import pytest
import torch

from experiments.extrapolation import measure
from experiments.tasks import schemes


class Remembers(torch.nn.Module):
    """Notes what it was shown; finds every next character equally likely."""

    def forward(self, tokens: torch.Tensor, mask: object) -> torch.Tensor:
        self.shown = tokens
        return torch.zeros(*tokens.shape, 8)


@pytest.mark.parametrize("n", [16, 20, 40])
def test_the_context_ends_before_the_last_character(n: int) -> None:
    window, model = torch.arange(41).remainder(8).expand(2, -1), Remembers()
    assert measure.bits(model, window, n=n) == pytest.approx(math.log2(8))
    torch.testing.assert_close(model.shown, window[:, 40 - n : 40])


def test_the_same_characters_are_asked_at_every_length() -> None:
    class Last(torch.nn.Module):
        """Sure of the next number on the circle: right at each of the last places, wrong before."""

        def forward(self, tokens: torch.Tensor, mask: object) -> torch.Tensor:
            return 100 * torch.nn.functional.one_hot((tokens + 1) % 8, 8).float()

    window = torch.arange(41).remainder(8).expand(2, -1).clone()
    window[:, : 41 - measure.TARGETS - 1] = 0
    assert {measure.bits(Last(), window, n=n).item() for n in (16, 32, 40)} == {0.0}


def test_training_and_test_text_are_apart() -> None:
    training, test, size = measure.text()
    assert len(training) == pytest.approx(9 * len(test), rel=1e-3)
    assert min(training.min(), test.min()) >= 0
    assert max(training.max(), test.max()) < size
    source = torch.Generator().manual_seed(0)
    windows = measure.windows(source, 64, n=20, part=1)
    assert windows.shape == (64, 21)
    inside = test.unfold(0, 21, 1)
    assert all((inside == window).all(1).any() for window in windows[:4])


def test_schemes_share_every_matrix() -> None:
    def state(scheme: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return measure.language_model(scheme, longest=40, d_model=16).state_dict()

    bare = state("ALiBi")
    own = {
        "learned": {"positions.table"},
        "T5": {f"blocks.{layer}.attention.positions.table" for layer in range(schemes.LAYERS)},
    }
    for scheme in measure.SCHEMES:
        found = state(scheme)
        assert {*found} - {*bare} == own.get(scheme, set())
        torch.testing.assert_close({name: found[name] for name in bare}, bare, rtol=0, atol=0)


def test_measure_gives_the_same_rows_twice() -> None:
    arm = {"scheme": "ALiBi", "learning_rates": [0.01], "seeds": [4, 5], "lengths": [16, 24]}
    size = {"steps": 2, "batch_size": 2, "d_model": 16}
    first, again = (measure.train(**arm, **size) for _ in range(2))
    assert first == again
    assert [len(row["bits"]) for row in first] == [2, 2]
