import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose, assert_array_equal

import selfattn as sa
from selfattn import figures


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


@pytest.fixture
def ax():
    with plt.rc_context(figures.style):
        yield plt.figure().gca()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def luminance(colour):
    """Relative luminance as WCAG 2.2 defines it."""
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


class TestWeights:
    def test_queries_go_down_keys_across_on_a_scale_from_0_to_1(self, ax):
        grid = np.array([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]])
        figures.weights(ax, grid, ["a", "b"], ["c", "d", "e"], title="T")
        ax.figure.canvas.draw()
        (image,) = ax.images
        assert_array_equal(image.get_array(), grid)
        assert image.get_clim() == (0, 1)
        assert (labels(ax.yaxis), labels(ax.xaxis)) == (["a", "b"], ["c", "d", "e"])
        assert ax.yaxis.get_inverted()  # the first query is on top
        assert (ax.get_ylabel(), ax.get_xlabel(), ax.get_title()) == ("query", "key", "T")
        assert texts(ax) == ["0.25", "0.75", "0.00", "0.50", "0.25", "0.25"]
        assert ax.texts[1].get_position() == (1, 0)
        assert len(ax.figure.axes) == 2  # the bar

    def test_numbers_stand_out_from_their_cells(self, ax):
        figures.weights(ax, [np.linspace(0, 1, 101)], ["a"], [""] * 101, numbers=True)
        cells = ax.images[0].to_rgba(np.linspace(0, 1, 101))
        for text, cell in zip(ax.texts, cells, strict=True):
            dark, light = sorted([luminance(text.get_color()), luminance(cell)])
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (
                f"{text.get_text()} is hard to read"
            )  # WCAG 2.2, 1.4.3

    def test_many_keys_leave_no_room_for_numbers(self, ax):
        figures.weights(ax, np.eye(11), [*"abcdefghijk"], bar=False)
        assert texts(ax) == []
        assert len(ax.figure.axes) == 1
        figures.weights(ax, np.eye(11), [*"abcdefghijk"], bar=False, numbers=True)
        assert len(ax.texts) == 121

    def test_tokens_that_do_not_fit(self, ax):
        with pytest.raises(ValueError, match=r"\(2, 1\) for 2 queries and 1 keys; got \(2, 2\)"):
            figures.weights(ax, np.eye(2), ["a", "b"], ["a"])


class TestHeads:
    def test_one_grid_a_head_and_no_empty_frames(self):
        axes = plt.figure().subplots(2, 2)
        grids = np.stack([np.eye(2), np.full((2, 2), 0.5), np.eye(2)[::-1]])
        figures.heads(axes, grids, ["a", "b"])
        for ax, grid in zip(axes.flat, grids, strict=False):
            assert_array_equal(ax.images[0].get_array(), grid)
        assert [ax.get_title() for ax in axes.flat] == ["head 0", "head 1", "head 2", ""]
        assert [ax.axison for ax in axes.flat] == [True, True, True, False]
        assert len(axes[0, 0].figure.axes) == 5  # one bar for all

    def test_too_few_axes(self):
        with pytest.raises(ValueError, match="3 heads need as many axes; got 2"):
            figures.heads(plt.figure().subplots(1, 2), np.zeros((3, 2, 2)), ["a", "b"])


def test_bars_carry_their_numbers(ax):
    figures.bars(ax, [0.25, -1.5], ["a", "b"], ylabel="score")
    assert [bar.get_height() for bar in ax.patches] == [0.25, -1.5]
    assert texts(ax) == ["0.25", "-1.50"]
    assert labels(ax.xaxis) == ["a", "b"]
    assert ax.get_ylabel() == "score"


def test_arrows_stay_in_the_picture(ax):
    vectors = np.array([[1.0, 2.0], [-3.0, 0.5], [0.0, -4.0]])
    figures.arrows(ax, vectors, ["a", "b", "c"])
    arrows, names = ax.texts[::2], ax.texts[1::2]
    assert_allclose([arrow.xy for arrow in arrows], vectors)
    assert [name.get_text() for name in names] == ["a", "b", "c"]
    for limits, coordinates in zip((ax.get_xlim(), ax.get_ylim()), vectors.T, strict=True):
        assert limits[0] < coordinates.min() <= coordinates.max() < limits[1]


class TestSource:
    @pytest.mark.parametrize("function", [sa.softmax, sa.attention, sa.causal.block, figures.source])
    def test_shows_code_that_runs_without_its_docstring(self, function):
        shown = figures.source(function).data
        assert shown.startswith("```python\n")
        assert shown.endswith("\n```")
        assert f"def {function.__name__}(" in shown
        assert ">>>" not in shown
        assert function.__doc__.splitlines()[0] not in shown
        assert shown.count("\n") > 3
