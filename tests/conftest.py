"""What every test stands on: enforced shapes, three array libraries, the same random examples each time."""

import jaxtyping
import matplotlib as mpl

mpl.use("Agg")  # draw without a screen, in doctests too
jaxtyping.install_import_hook(
    "selfattn", "beartype.beartype"
)  # takes effect where selfattn is imported later

import array_api_strict  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import Phase, settings  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

torch.set_num_threads(1)  # one core for each of xdist's workers
settings.register_profile("suite", max_examples=60, deadline=None, derandomize=True, database=None)
settings.register_profile("mutation", parent=settings.get_profile("suite"), phases=[Phase.generate])
settings.load_profile("suite")


@pytest.fixture(params=[np, torch, array_api_strict], ids=lambda library: library.__name__, scope="session")
def xp(request):
    """An array library."""
    return request.param


@pytest.fixture(scope="session")
def like(xp):
    """Make an array of that library: `like(numbers)` or `like(numbers, "float32")`."""
    return lambda array, dtype="float64": xp.asarray(np.array(array), dtype=getattr(xp, dtype))


@pytest.fixture
def normal():
    """Draw standard normal numbers, the same ones in every run: `normal(2, 3)`."""
    rng = np.random.default_rng(0)
    return lambda *shape: rng.standard_normal(shape)


@pytest.fixture
def unchecked(monkeypatch):
    """Leave shapes to the library's own errors, as they are for a user who has no type checker."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


class Largest(TorchDispatchMode):
    """Watches torch: the largest number of entries that any operation's result has memory for."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **kwargs or {})
        for x in output if isinstance(output, tuple | list) else [output]:
            if isinstance(x, torch.Tensor):
                self.entries = max(self.entries, x.untyped_storage().nbytes() // x.element_size())
        return output


@pytest.fixture
def largest():
    """See `Largest`: `with largest: ...` and then `largest.entries`."""
    return Largest()
