from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import selfattn as sa
from selfattn.flash import plan as module
from selfattn.flash.plan import Dense, Tile, plan_tiles, tiles


def cuts(tile):
    """The ends of three parts of its keys, the middle one the largest that needs no mask, if there is one."""
    common = tile.common.start, tile.common.stop
    return [0, *(common if common[0] < common[1] else ()), tile.width]


def seen(tile, rows, ends):
    """Who sees whom among the keys between the ends; where all see all, there is no array."""
    allowed, width = tile.allowed(slice(*ends), np.ones(1)), ends[1] - ends[0]
    assert allowed is None or not width or not allowed.all()
    return np.ones((rows, width), bool) if allowed is None else allowed


def held(plan, shape):
    """How often each pair of query and key is in the tiles: ``(*leading, q_len, kv_len)``."""
    counts = np.zeros(shape, int)
    for tile in plan:
        rows = (tile.queries.stop - tile.queries.start) // tile.blocks
        allowed = np.concatenate([seen(tile, rows, ends) for ends in pairwise(cuts(tile))], axis=-1)
        if tile.causal:
            allowed = np.tri(rows, tile.width, tile.width - rows, bool)
        for block in range(tile.blocks):
            query, key = tile.queries.start + block * rows, tile.keys.start + block * rows
            counts[(*tile.leading, slice(query, query + rows), slice(key, key + tile.width))] += allowed
    return counts


@st.composite
def intervals(draw):
    """Bounds of runs of queries that see the same, a growing or a moving interval, or anything."""
    kv_len, runs = 40, []
    for _ in range(draw(st.integers(0, 4))):
        n, start = draw(st.integers(1, 9)), draw(st.integers(0, kv_len))
        stop, steps = draw(st.integers(start, kv_len)), np.arange(n)[:, None]
        step = draw(st.sampled_from([(0, 0), (0, 1), (1, 1), (2, 1), (1, 0), (0, 2)]))
        runs.append(np.clip((start, stop) + steps * step, 0, kv_len))
    lo, hi = np.concatenate([np.zeros((0, 2), int), *runs]).T
    return np.where(lo < hi, lo, kv_len), np.where(lo < hi, hi, 0), kv_len


class TestTiles:
    @given(intervals(), st.booleans(), st.integers(1, 4), st.sampled_from([1, 16, 64]))
    def test_every_pair_is_in_one_tile(self, bounds, shapes, queries, span):
        lo, hi, kv_len = bounds
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "QUERIES", queries)
            patch.setattr(module, "SPAN", span)
            counts = held(tiles(lo, hi, shapes), (len(lo), kv_len))
        j = np.arange(kv_len)
        assert_array_equal(counts, (lo[:, None] <= j) & (j < hi[:, None]))

    def test_each_sequence_of_a_batch_has_tiles_of_its_own(self):
        mask = sa.causal & sa.padding([[70], [300]]) & sa.documents(np.arange(300) // 130)
        plan = list(tiles(*mask.interval(300, 300)[:2], shapes=True))
        assert [tile.leading[0] for tile in plan] == [slice(0, 1)] * 2 + [slice(1, 2)] * 3
        assert all(tile.leading[1:] == (slice(None), slice(None)) for tile in plan)
        assert_array_equal(held(plan, (2, 1, 1, 300, 300)), mask.dense(300, 300))

    @pytest.mark.parametrize(
        ("mask", "expected"),
        [
            (~sa.padding(0), [(0, 1000, 0, 1000, 1, False)]),
            (sa.causal, [(0, 1000, 0, 1000, 1, True)]),
            (sa.padding(300), [(0, 1000, 0, 300, 1, False)]),
            (sa.padding(0), []),
            (
                sa.causal & sa.documents(np.arange(1000) // 500),
                [(0, 500, 0, 500, 1, True), (500, 1000, 500, 1000, 1, True)],
            ),
            (
                sa.sliding_window(127),
                [(0, 128, 0, 128, 1, True), (128, 960, 1, 960, 13, False), (960, 1000, 833, 1000, 1, False)],
            ),
        ],
        ids=["all", "causal", "padding", "nothing", "documents", "window"],
    )
    def test_long_stretches_are_single_tiles(self, mask, expected):
        plan = tiles(*mask.interval(1000, 1000)[:2], shapes=True)
        seen = [
            (t.queries.start, t.queries.stop, t.keys.start, t.keys.stop, t.blocks, t.causal) for t in plan
        ]
        assert seen == expected

    def test_a_band_is_cut_where_its_blocks_see_too_many_keys(self):
        bands = [
            tile
            for tile in tiles(*sa.sliding_window(4095).interval(10_000, 10_000)[:2], True)
            if tile.blocks > 1
        ]
        assert max(tile.blocks * tile.width for tile in bands) <= module.SPAN
        assert bands[0].blocks == module.SPAN // bands[0].width

    def test_a_band_too_wide_for_two_blocks_has_one(self, monkeypatch):
        monkeypatch.setattr(module, "SPAN", 200)
        assert {tile.blocks for tile in tiles(*sa.sliding_window(127).interval(1000, 1000)[:2], True)} == {1}

    @pytest.mark.parametrize("shapes", [True, False])
    def test_without_keys_there_is_no_tile(self, shapes):
        assert not list(tiles(*sa.causal.interval(100, 0)[:2], shapes))

    @pytest.mark.parametrize(
        ("mask", "heights"),
        [
            (sa.sliding_window(127), [64] * 15 + [40]),
            (sa.sliding_window(799, 799), [107, 121, 136, 153, 172, 194, 117]),
            (sa.padding(800), [100] * 10),
            (~sa.padding(0), [256] * 3 + [232]),
        ],
        ids=["a narrow window", "a wide one", "padding", "all"],
    )
    def test_without_shapes_a_tile_is_an_eighth_of_its_width_high_within_limits(self, mask, heights):
        plan = tiles(*mask.interval(1000, 3000)[:2], shapes=False)
        assert [tile.queries.stop - tile.queries.start for tile in plan] == heights

    def test_where_all_see_all_nothing_is_asked(self):
        plan = list(tiles(*sa.padding(30).interval(200, 90)[:2], shapes=False))
        assert [tile.allowed(slice(0, tile.width), np.ones(1)) for tile in plan] == [None] * 4
        assert [tile.common for tile in plan] == [slice(0, 30)] * 4

    def test_only_keys_that_some_queries_do_not_see_are_asked_about(self):
        (tile,) = tiles(*sa.sliding_window(590).shift(600).interval(64, 700)[:2], shapes=False)
        assert (tile.keys, tile.common) == (slice(10, 664), slice(63, 591))
        one = np.ones(1)
        assert tile.allowed(slice(63, 591), one) is None
        assert_array_equal(tile.allowed(slice(590, 592), one), np.arange(64)[:, None] > [-1, 0])
        assert_array_equal(tile.allowed(slice(62, 64), one), np.arange(64)[:, None] < [63, 64])

    def test_one_long_stretch_begins_where_another_ends(self):
        lo = np.concatenate([np.full(100, 3), np.full(100, 0), 10 + np.arange(130)])
        hi = np.concatenate([np.full(100, 9), np.full(100, 7), 15 + np.arange(130)])
        same, other, band, rest = tiles(lo, hi, shapes=True)
        assert (same.queries, same.keys, same.bounds) == (slice(0, 100), slice(3, 9), None)
        assert (other.queries, other.keys, other.bounds) == (slice(100, 200), slice(0, 7), None)
        assert (band.queries, band.keys, band.blocks) == (slice(200, 328), slice(10, 142), 2)
        assert (rest.queries, rest.keys, rest.blocks) == (slice(328, 330), slice(138, 144), 1)

    def test_who_sees_whom_is_made_where_the_example_is(self):
        (tile,) = tiles(np.array([0, 1]), np.array([1, 3]), shapes=False)
        assert tile.allowed(slice(0, 3), torch.ones(1, device="meta")).device.type == "meta"

    def test_a_rule_is_asked_about_these_keys(self):
        tile = Tile((), slice(1, 3), slice(2, 7), 5, rule=sa.causal)
        assert_array_equal(tile.allowed(slice(0, 5), np.ones(1)), np.tri(2, 5, -1, bool))
        assert_array_equal(tile.allowed(slice(1, 3), np.ones(1)), np.tri(2, 2, -2, bool))
        tile = Tile((), slice(3, 5), slice(2, 7), 5, rule=sa.causal)
        assert_array_equal(tile.allowed(slice(1, 3), np.ones(1)), np.tri(2, 2, 0, bool))


def test_a_tile_is_found_in_arrays_that_broadcast():
    tile = Tile((slice(2, 3), slice(None)), slice(4, 8), slice(1, 9), 8)
    array = np.arange(5 * 2 * 8 * 9).reshape(5, 2, 8, 9)
    assert_array_equal(array[tile.index(array, tile.queries, tile.keys)], array[2:3, :, 4:8, 1:9])
    one = array[:1, :, :1]
    assert_array_equal(one[tile.index(one, tile.queries, tile.keys)], one[..., 1:9])
    assert_array_equal(array[0, 0][tile.index(array[0, 0], tile.queries, tile.keys)], array[0, 0, 4:8, 1:9])


@pytest.mark.parametrize("library", [np.asarray, torch.tensor], ids=["numpy", "torch"])
class TestDense:
    def test_the_intervals_are_the_hulls_of_the_blocks(self, library):
        dense = np.zeros((2, 150, 9), bool)
        dense[0, 3, 4] = dense[1, 60, 6] = dense[1, 149, 0] = True
        lo, hi, exact = Dense(library(dense)).interval(150, 9)
        assert_array_equal(lo, [4] * 64 + [9] * 64 + [0] * 22)
        assert_array_equal(hi, [7] * 64 + [0] * 64 + [1] * 22)
        assert not exact[lo < hi].any()
        assert_array_equal(Dense(library(dense)).block(slice(2, 61), slice(3, 9)), dense[:, 2:61, 3:9])


class TestPlan:
    def plan(self, mask, axes, q_len, kv_len, library=np, shapes=False):
        return plan_tiles(mask, axes, q_len, kv_len, like=library.ones(1), shapes=shapes)

    def test_without_a_mask_all_see_all(self):
        (tile,) = self.plan(None, (), 2, 3)
        assert (tile.queries, tile.keys, tile.bounds, tile.rule) == (slice(0, 2), slice(0, 3), None, None)

    def test_a_rule_that_bounds_do_not_tell_is_asked_within_their_hull(self):
        mask = sa.padding([[[1]], [[2]]]) & ~sa.sliding_window(0)
        (tile,) = self.plan(mask, (2, 1, 1), 2, 3)
        assert (tile.leading, tile.keys, tile.rule) == ((), slice(0, 2), mask)
        for like in (np.ones(1), torch.ones(1)):
            allowed = tile.allowed(slice(0, 2), like)
            assert type(allowed) is type(like)
            assert_array_equal(allowed.reshape(2, 2, 2), [[[0, 0], [1, 0]], [[0, 1], [1, 0]]])

    @pytest.mark.parametrize(
        ("batch", "n", "count"), [(512, 16, 1), (64, 128, 1), (8, 4096, 8)], ids=["short", "middle", "long"]
    )
    def test_many_short_sequences_are_one_tile(self, batch, n, count):
        lengths = np.full(batch, n // 2)
        lengths[0] = n
        plan = self.plan(sa.padding(lengths), (batch, 4), n, n, library=torch, shapes=True)
        assert len(plan) == count
        if count == 1:
            assert plan == [Tile((), slice(0, n), slice(0, n), n, rule=sa.padding(lengths))]
        assert all((tile.rule is None) == (count > 1) for tile in plan)

    @pytest.mark.parametrize("lengths", [[1, 3], [[1, 3]]])
    @pytest.mark.parametrize(
        ("costs", "count"),
        [({"TILE": 37, "GROUP": 32}, 1), ({"TILE": 36, "GROUP": 32}, 2), ({"TILE": 37, "GROUP": 31}, 2)],
    )
    def test_one_tile_where_scores_in_vain_cost_less_than_tiles(self, monkeypatch, lengths, costs, count):
        """Of 2 · 16 pairs 8 are allowed; the other 24, for six heads in all, compare with 2² tiles."""
        for name, cost in costs.items():
            monkeypatch.setattr(module, name, cost)
        rule = sa.padding(lengths) & sa.sliding_window(1)
        assert len(self.plan(rule, (2, 3), 4, 4, library=torch)) == count

    @pytest.mark.parametrize(
        ("library", "scores", "count"), [(np, 2560, 2), (np, 2561, 1), (torch, 2560, 1)], ids=str
    )
    def test_heads_that_fill_the_cache_have_tiles_of_their_own_in_numpy(
        self, monkeypatch, library, scores, count
    ):
        monkeypatch.setattr(module, "SCORES", scores)  # four blocks of 64 queries by ten keys are 2560
        plan = self.plan(sa.padding(10) & sa.sliding_window(0, 99), (2,), 9, 12, library)
        assert [tile.leading for tile in plan] == ([(slice(0, 1),), (slice(1, 2),)] if count == 2 else [()])

    def test_under_a_rule_there_are_no_long_stretches(self):
        plan = self.plan(sa.Mask(lambda i, j: i != j), (), 200, 9, library=torch, shapes=True)
        assert [tile.queries.stop - tile.queries.start for tile in plan] == [64, 64, 64, 8]

    def test_an_array_keeps_its_leading_axes(self):
        (tile,) = self.plan(np.eye(3, 4, dtype=bool) | np.zeros((2, 1, 3, 1), bool), (2, 5), 3, 4)
        assert tile.rule.array.shape == (2, 1, 3, 4)

    def test_many_short_sequences_of_one_length_are_one_tile_without_a_mask(self):
        (tile,) = self.plan(sa.padding([9] * 512), (512, 4), 16, 16, library=torch, shapes=True)
        assert (tile.keys, tile.allowed(slice(0, 9), torch.ones(1))) == (slice(0, 9), None)

    @pytest.mark.parametrize("library", [np.asarray, torch.tensor], ids=["numpy", "torch"])
    @pytest.mark.parametrize(
        ("mask", "hull"),
        [
            ([[True, False, True, False]], [0, 3]),
            ([True, False, True, False], [0, 3]),
            ([[True], [False], [True]], [0, 4]),
            (True, [0, 4]),
        ],
    )
    def test_an_array_may_broadcast(self, library, mask, hull):
        (tile,) = self.plan(library(np.array(mask)), (), 3, 4)
        assert [tile.keys.start, tile.keys.stop] == hull
        expected = np.broadcast_to(mask, (3, 4))[:2, slice(*hull)]
        assert_array_equal(tile.rule.block(slice(0, 2), slice(*hull)), expected)

    def test_an_empty_batch_has_no_tile(self):
        assert self.plan(sa.padding([]), (0, 4), 5, 5) == []
