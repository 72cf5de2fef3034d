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


def contrast(one, other):
    """The contrast ratio of WCAG 2.2, from 1 to 21."""
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


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
            ratio = contrast(text.get_color(), cell)
            assert ratio >= 4.5, f"{text.get_text()} is hard to read"  # WCAG 2.2, 1.4.3

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


class TestMask:
    @pytest.fixture(autouse=True)
    def _layout(self, ax):
        ax.figure.set_layout_engine(
            "constrained"
        )  # as under figures.style: the legend has a place of its own

    def cells(self, ax):
        return ax.images[0].to_rgba(ax.images[0].get_array())[..., :3]

    @pytest.mark.parametrize("rule", [sa.causal, [[True, False, False], [True, True, False]]])
    def test_what_is_allowed_has_the_colour_that_the_legend_gives_it(self, ax, rule):
        figures.mask(ax, rule, ["a", "b"], ["c", "d", "e"], title="T")
        ax.figure.canvas.draw()
        (legend,) = ax.figure.legends
        named = {
            text.get_text(): to_rgb(patch.get_facecolor())
            for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
        }
        allowed = (self.cells(ax) == named["may attend"]).all(axis=-1)
        assert_array_equal(allowed, [[True, False, False], [True, True, False]])
        assert_array_equal((self.cells(ax) == named["may not"]).all(axis=-1), ~allowed)
        assert (labels(ax.yaxis), labels(ax.xaxis)) == (["a", "b"], ["c", "d", "e"])
        assert ax.yaxis.get_inverted()  # the first query is on top
        assert (ax.get_ylabel(), ax.get_xlabel(), ax.get_title()) == ("query", "key", "T")

    def test_told_apart_without_colour(self, ax):
        figures.mask(ax, sa.causal, 2)
        cells = self.cells(ax)
        assert contrast(cells[0, 0], cells[0, 1]) >= 3  # WCAG 2.2, 1.4.11

    @pytest.mark.parametrize("allowed", [True, False])
    def test_a_mask_of_one_kind_is_not_rescaled(self, ax, allowed):
        figures.mask(ax, sa.causal, 2)
        dark, pale = self.cells(ax)[0]
        figures.mask(ax.figure.add_subplot(), np.full((2, 2), allowed), 2)
        assert_array_equal(self.cells(ax.figure.axes[1])[1, 1], dark if allowed else pale)

    def test_lengths_in_place_of_tokens_and_one_legend_a_figure(self):
        figure, axes = plt.subplots(1, 2, layout="constrained")
        figures.mask(axes[0], sa.sliding_window(3).shift(60), 4, 64)
        figures.mask(axes[1], sa.padding(5), 9)
        figure.canvas.draw()
        assert [ax.images[0].get_array().shape for ax in axes] == [(4, 64), (9, 9)]
        assert axes[0].images[0].get_array().nonzero()[1].min() == 57
        assert all(float(tick).is_integer() for ax in axes for tick in (*ax.get_xticks(), *ax.get_yticks()))
        assert len(figure.legends) == 1

    def test_no_lines_in_a_crowd_of_cells(self, ax):
        figures.mask(ax, sa.causal, 33)
        assert ax.get_xticks(minor=True).size == 0
        figures.mask(ax, sa.causal, 32)
        assert_array_equal(ax.get_xticks(minor=True), np.arange(33) - 0.5)

    def test_what_does_not_fit(self, ax):
        with pytest.raises(TypeError, match=r"True = may attend\); got int64"):
            figures.mask(ax, np.eye(2, dtype=int), 2)
        with pytest.raises(ValueError, match=r"mask \(2, 1\) for 2 queries and 1 keys; got \(2, 2\)"):
            figures.mask(ax, np.eye(2, dtype=bool), ["a", "b"], ["a"])
        with pytest.raises(ValueError, match=r"got \(2, 1, 3, 3\)"):
            figures.mask(ax, sa.padding([1, 2]), 3)


class TestGradients:
    def test_signs_are_written_and_zero_is_in_the_middle(self, ax):
        grid = np.array([[0.25, -0.5, 0.0], [0.001, -0.001, 0.25]])
        figures.gradients(ax, grid, ["a", "b"], ["c", "d", "e"], title="T")
        ax.figure.canvas.draw()
        assert_array_equal(ax.images[0].get_array(), grid)
        assert ax.images[0].get_clim() == (-0.5, 0.5)
        assert texts(ax) == ["+0.25", "-0.50", "0", "+0.00", "-0.00", "+0.25"]
        assert ax.texts[1].get_position() == (1, 0)
        assert (labels(ax.yaxis), labels(ax.xaxis)) == (["a", "b"], ["c", "d", "e"])
        assert (ax.get_ylabel(), ax.get_xlabel(), ax.get_title()) == ("query", "key", "T")

    def test_numbers_stand_out_from_their_cells(self, ax):
        figures.gradients(ax, [np.linspace(-3, 3, 201)], ["a"], [""] * 201)
        for text, cell in zip(ax.texts, ax.images[0].to_rgba(np.linspace(-3, 3, 201)), strict=True):
            assert contrast(text.get_color(), cell[:3]) >= 4.5, f"{text.get_text()} is hard to read"

    def test_nothing_but_zeros(self, ax):
        figures.gradients(ax, np.zeros((1, 1)), ["a"])
        assert contrast(ax.images[0].to_rgba(0.0)[:3], "white") < 1.1

    def test_tokens_that_do_not_fit(self, ax):
        with pytest.raises(ValueError, match=r"gradients \(2, 1\); got \(2, 2\)"):
            figures.gradients(ax, np.eye(2), ["a", "b"], ["a"])


class TestDistributions:
    def share(self, outline, low, high):
        """Which share the outline shows between two places on the axis."""
        shares, edges, _ = outline.get_data()
        return shares[(edges[:-1] >= low) & (edges[1:] <= high)].sum()

    def test_scores_are_where_they_are_as_shares_of_each_array(self, ax):
        figures.score_distribution(ax, {"three": [-4.0, 1.0, 1.0], "one": np.array([[16.0]])})
        three, one = ax.patches
        assert_allclose([self.share(three, -4, -3), self.share(three, 0.5, 1.5)], [1 / 3, 2 / 3])
        assert_allclose([self.share(one, 15, 16), self.share(one, -4, 15)], [1, 0])
        assert_array_equal(three.get_data().edges, one.get_data().edges)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["three", "one"]
        assert three.get_linestyle() != one.get_linestyle()  # told apart in grey
        assert ax.get_xscale() == "linear"

    def test_forbidden_scores_are_counted_in_the_legend(self, ax):
        figures.score_distribution(ax, {"causal": [-np.inf, 1.0, 2.0, 3.0]})
        assert_allclose(self.share(ax.patches[0], 1, 3), 0.75)
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["causal (25% forbidden)"]

    def test_weights_lie_on_an_axis_of_equal_ratios(self, ax):
        figures.weight_distribution(ax, {"a": [1e-8, 1e-4, 1e-4, 1.0], "b": [0.0, 1.0]})
        a, b = ax.patches
        assert ax.get_xscale() == "log"
        edges = a.get_data().edges
        assert_allclose(edges[1:] / edges[:-1], 10**0.2)
        assert_allclose((edges[0], edges[-1]), (1e-8, 1))
        assert_allclose([self.share(a, 1e-9, 2e-8), self.share(a, 2e-5, 5e-4)], [0.25, 0.5])
        assert_allclose([self.share(b, 1e-9, 0.3), self.share(b, 0.3, 1.1)], [0, 0.5])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b (50% exactly 0)"]

    def test_all_alike(self, ax):
        figures.weight_distribution(ax, {"uniform": np.full((3, 4), 0.25)})
        assert_allclose(self.share(ax.patches[0], 0.2, 0.32), 1)

    def test_what_is_no_score_and_no_weight(self, ax):
        with pytest.raises(ValueError, match="nan"):
            figures.score_distribution(ax, {"bad": [0.0, np.nan]})
        with pytest.raises(ValueError, match=r"'bad' has -0\.5"):
            figures.weight_distribution(ax, {"good": [1.0], "bad": [1.0, -0.5]})
        with pytest.raises(ValueError, match="'bad' has nan"):
            figures.weight_distribution(ax, {"bad": [np.nan]})


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


class TestVerdicts:
    EFFECTS = ((0.75, 0.7, 0.8), (-40.0, -50.0, -30.0), (0.0, -0.2, 0.2))
    BOUNDS = ((0.25, np.inf), (25.0, np.inf), (-0.05, 0.05))
    RULED = ("reproduced", "not reproduced", "inconclusive")

    def test_bars_lie_on_the_side_of_the_band_that_the_verdict_says(self, ax):
        figures.verdicts(ax, ["wide", "slow", "equal"], self.EFFECTS, self.BOUNDS, self.RULED)
        bands = [(band.get_x(), band.get_x() + band.get_width()) for band in ax.patches]
        bars = [line.get_xdata() for line in ax.lines[::2]]
        assert bands[0][0] < bars[0][0] < bars[0][1] < bands[0][1] == 1  # open to the right
        assert bars[1][1] < bands[1][0]
        assert bars[2][0] < bands[2][0] < bands[2][1] < bars[2][1]
        for bar, (middle,) in zip(bars, (line.get_xdata() for line in ax.lines[1::2]), strict=True):
            assert 0 < bar[0] < middle < bar[1] < 1
        assert (labels(ax.yaxis), ax.yaxis.get_inverted()) == (["wide", "slow", "equal"], True)

    def test_verdicts_differ_in_shape_and_in_grey(self, ax):
        figures.verdicts(ax, ["a", "b", "c"], self.EFFECTS, self.BOUNDS, self.RULED)
        marks = ax.lines[1::2]
        assert len({mark.get_marker() for mark in marks}) == 3
        assert contrast(marks[0].get_markerfacecolor(), marks[2].get_markerfacecolor()) >= 3
        (legend,) = ax.figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [*self.RULED, "where the claim holds"]

    def test_an_interval_without_width_on_its_threshold_is_drawn(self, ax):
        figures.verdicts(ax, ["exact"], [[0.0, 0.0, 0.0]], [[-np.inf, 0.0]], ["reproduced"])
        assert ax.lines[1].get_xdata() == pytest.approx([0.5])

    def test_another_verdict_is_refused(self, ax):
        with pytest.raises(KeyError, match="not tested"):
            figures.verdicts(ax, ["a"], self.EFFECTS[:1], self.BOUNDS[:1], ["not tested"])


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
