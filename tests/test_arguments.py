"""What `attention`, `attention_weights` and `flash_attention` accept, and what they say of the rest."""

import math
import re
from itertools import permutations, product

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

import selfattn as sa
from selfattn.arguments import fitted
from selfattn.arrays import describe


class TestHeads:
    @pytest.mark.parametrize(
        ("heads", "groups"),
        [(4, [0, 0, 1, 1]), (6, [0, 0, 1, 1, 2, 2]), (3, [0, 0, 0]), (2, [0, 1]), (0, [])],
    )
    def test_each_serves_a_group_of_neighbours(self, like, normal, heads, groups):
        k = normal(2, max(groups, default=1) + 1, 5, 3)
        arguments = fitted(like(normal(2, heads, 4, 3)), like(k), like(-k))
        assert_array_equal(np.broadcast_to(arguments.k, (2, heads, 5, 3)), k[:, groups])
        assert_array_equal(np.broadcast_to(arguments.v, (2, heads, 5, 3)), -k[:, groups])

    def test_keys_and_values_may_have_groups_of_their_own(self, normal):
        arguments = fitted(normal(4, 5, 2), normal(2, 5, 2), normal(4, 5, 3))
        assert (arguments.k.shape, arguments.v.shape) == ((4, 5, 2), (4, 5, 3))

    def test_without_an_axis_of_heads_there_is_one(self, normal):
        k = normal(5, 2)
        assert fitted(normal(4, 3, 2), k).k is k
        assert fitted(normal(3, 2), normal(1, 5, 2)).k.shape == (1, 5, 2)

    def test_what_fits_is_not_copied(self, like, normal):
        arrays = [like(normal(2, 5, 3)) for _ in "qkv"]
        arguments = fitted(*arrays, bias=arrays[0][..., :1])
        assert all(given is array for given, array in zip(arguments, arrays, strict=False))


class TestTypes:
    @pytest.mark.parametrize("kinds", list(product(["float16", "bfloat16", "float32", "float64"], repeat=3)))
    def test_a_bias_takes_the_type_of_the_scores(self, kinds):
        q, k, bias = (torch.ones(2, 2, dtype=getattr(torch, kind)) for kind in kinds)
        arguments, common = fitted(q, k, bias=bias), torch.promote_types(q.dtype, k.dtype)
        assert (arguments.q.dtype, arguments.k.dtype, arguments.v) == (common, common, None)
        wide = common if common.itemsize > 2 else torch.float32
        assert arguments.bias.dtype == (bias.dtype if bias.dtype == common else wide)

    @pytest.mark.parametrize(
        "kinds", sorted(set(permutations(["float32", "float32", "float64"]))), ids=" ".join
    )
    def test_the_common_one_is_everyones(self, like, kinds):
        q, k, v = (like(np.ones((2, 2)), kind) for kind in kinds)
        arguments = fitted(q, k, v)
        assert {x.dtype for x in arguments[:3]} == {like(1.0, "float64").dtype}

    def test_without_a_bias_there_is_none(self, like, normal):
        x = like(normal(3, 2))
        assert fitted(x, x, x).bias is None

    @pytest.mark.usefixtures("unchecked")
    def test_a_scale_is_a_float_by_default_that_of_the_width(self, like, normal):
        x = like(normal(3, 4))
        assert fitted(x, x).scale == 0.5
        scale = fitted(x, x, scale=2).scale
        assert (scale, type(scale)) == (2.0, float)


HEADS = "key and value heads must divide the query heads"
BATCH = "batch axes must broadcast"
AXES = "expected at least two axes, (..., length, width)"


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize(
        ("shapes", "wanted", "named"),
        [
            (
                {"q": (2, 3), "k": (4, 5), "v": (4, 3)},
                "expected q (..., q_len, d_k) and k (..., kv_len, d_k)",
                "q k",
            ),
            ({"q": (2, 3), "k": (4, 3), "v": (5, 3)}, "expected as many values as keys", "k v"),
            ({"q": (2, 3), "k": (4, 3), "v": (4,)}, AXES, "q k v"),
            ({"q": (3,), "k": (4, 3), "v": (4, 3)}, AXES, "q k v"),
            ({"q": (4, 3), "k": (3,), "v": (4, 3)}, AXES, "q k v"),
            ({"q": (4, 2, 3), "k": (3, 2, 3), "v": (3, 2, 3)}, HEADS, "q k v"),
            ({"q": (2, 2, 3), "k": (4, 2, 3), "v": (4, 2, 3)}, HEADS, "q k v"),
            ({"q": (2, 2, 3), "k": (0, 2, 3), "v": (0, 2, 3)}, HEADS, "q k v"),
            ({"q": (4, 2, 3), "k": (4, 2, 3), "v": (3, 2, 3)}, HEADS, "q k v"),
            ({"q": (4, 2, 3), "k": (3, 2, 3), "v": (4, 2, 3)}, HEADS, "q k v"),
            ({"q": (2, 3), "k": (2, 4, 3), "v": (2, 4, 3)}, HEADS, "q k v"),
            ({"q": (2, 1, 2, 3), "k": (3, 1, 2, 3), "v": (3, 1, 2, 3)}, BATCH, "q k v"),
            ({"q": (1, 2, 3), "k": (2, 1, 2, 3), "v": (3, 1, 2, 3)}, BATCH, "q k v"),
            ({"q": (2, 1, 1, 2, 3), "k": (3, 1, 1, 2, 3), "v": (3, 1, 1, 2, 3)}, BATCH, "q k v"),
        ],
    )
    def test_shapes_that_do_not_fit(self, like, shapes, wanted, named):
        arrays = {name: like(np.ones(shape)) for name, shape in shapes.items()}
        seen = describe(**{name: arrays[name] for name in named.split()})
        with pytest.raises(ValueError, match=f"^{re.escape(f'{wanted}; got {seen}')}$"):
            sa.attention(**arrays)

    def test_a_rule_for_another_batch(self, like):
        q, rule = like(np.ones((3, 1, 2, 2))), sa.causal & sa.padding([1, 2])
        seen = "mask must broadcast to the scores (3, 1, 2, 2); got mask causal & padding([1, 2])"
        for attend in (sa.attention, sa.flash_attention):
            with pytest.raises(ValueError, match=f"^{re.escape(seen)}$"):
                attend(q, q, q, mask=rule)
        q, one = q[:2, ...], q[:2, :, :1, :1]
        assert sa.attention(q, q, q, mask=rule).shape == (2, 1, 2, 2)
        assert sa.attention(one, one, one, mask=rule).shape == one.shape
        assert fitted(q[:1, ...], q, bias=one).bias.shape == one.shape, "the keys' batch counts too"

    @pytest.mark.parametrize("name", ["mask", "bias"])
    @pytest.mark.parametrize("shape", [(4, 2), (2, 3), (1, 1, 1)])
    def test_what_does_not_broadcast_to_the_scores(self, like, name, shape):
        q, k, wrong = like(np.ones((2, 3))), like(np.ones((4, 3))), np.ones(shape)
        option = {name: like(wrong, "bool" if name == "mask" else "float64")}
        message = f"{name} must broadcast to the scores (2, 4); got {describe(**option)}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            sa.attention_weights(q, k, **option)

    @pytest.mark.parametrize(
        ("attend", "named"),
        [(sa.attention, ["q", "k", "v"]), (sa.attention_weights, ["q", "k", "bias"])],
        ids=["attention", "attention_weights"],
    )
    def test_strangers_and_integers(self, like, xp, attend, named):
        x = np.ones((2, 2))
        other = torch.ones((2, 2)) if xp is not torch else x
        for name in named:
            for wrong, wanted in [
                (other, "expected arrays of one library"),
                (x.tolist(), "expected arrays of one library"),
                (like(x, "int64"), "expected real floating-point arrays"),
            ]:
                arguments = dict.fromkeys(named, like(x)) | {name: wrong}
                with pytest.raises(
                    TypeError, match=f"^{re.escape(f'{wanted}; got {describe(**arguments)}')}$"
                ):
                    attend(**arguments)

    @pytest.mark.parametrize("attend", [sa.attention, sa.flash_attention], ids=["attention", "flash"])
    @pytest.mark.parametrize("name", ["scale", "softcap"])
    def test_what_is_no_number(self, like, attend, name):
        x = like(np.ones((2, 2)))
        for wrong in ("2", like([1.0, 2.0]), like(2.0)):
            with pytest.raises(TypeError, match=re.escape(f"{name} is a number; got {wrong!r}")):
                attend(x, x, x, **{name: wrong})
        for wrong in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match=f"{name} is a .* number; got {wrong}"):
                attend(x, x, x, **{name: wrong})

    @pytest.mark.parametrize("attend", [sa.attention, sa.flash_attention], ids=["attention", "flash"])
    @pytest.mark.parametrize("wrong", [0, -0.0, -5.0])
    def test_a_softcap_is_positive(self, like, attend, wrong):
        x = like(np.ones((2, 2)))
        with pytest.raises(ValueError, match=f"softcap is a positive number; got {wrong}"):
            attend(x, x, x, softcap=wrong)

    @pytest.mark.parametrize("wrong", ["float64", "int64", "list", "another library's"])
    def test_what_is_no_mask(self, like, xp, wrong):
        x, mask = like(np.ones((2, 2))), np.ones((2, 2), bool)
        mask = {
            "list": mask.tolist(),
            "another library's": torch.tensor(mask) if xp is not torch else mask,
        }.get(wrong, like(mask, wrong if wrong.endswith("64") else "bool"))
        wanted = "a mask is a Mask or a boolean array (True = may attend) of the queries' library"
        seen = describe(q=x, mask=mask)
        with pytest.raises(TypeError, match=f"^{re.escape(f'{wanted}; got {seen}')}$"):
            sa.attention(x, x, x, mask=mask)
