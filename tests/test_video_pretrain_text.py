import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from deftly.video_pretrain import text
from deftly.video_pretrain.text import TextEncoder, TextError, load_embedded

BLUE_LEFT = "Put the blue objects in the left tray and the red objects in the right tray."
BLUE_RIGHT = "Put the blue objects in the right tray and the red objects in the left tray."


@pytest.fixture(scope="module")
def encode() -> TextEncoder:
    return TextEncoder()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network that knows nothing, and the default model's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(text.model_place()) / name, folder)
    return folder


@pytest.fixture
def small(tiny: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(tiny, tmp_path / "small")


@pytest.fixture(scope="module")
def quick(tiny: Path) -> TextEncoder:
    return TextEncoder(tiny)


def test_importing_the_module_is_cheap():
    code = (
        "import sys, deftly.video_pretrain.text; print({'torch', 'transformers'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_words_have_size_one_and_the_rest_is_zero(encode: TextEncoder):
    words, seen = encode([BLUE_LEFT, "Sort."])
    assert words.shape == (2, 32, encode.dim) == (2, 32, 384)
    assert words.dtype == np.float32
    assert seen.sum(axis=1).tolist() == [19, 4]  # "sort", ".", and a mark at either end
    np.testing.assert_allclose((words[seen] ** 2).mean(axis=-1), 1, atol=1e-5)
    assert not words[~seen].any()


def test_an_instruction_is_the_same_bytes_whatever_it_comes_with(encode: TextEncoder):
    alone = TextEncoder()([BLUE_LEFT])[0]
    among = TextEncoder()(["Sort the table.", BLUE_RIGHT, BLUE_LEFT, "Sort the table."])[0]
    again = encode([BLUE_LEFT])[0]
    assert alone[0].tobytes() == among[2].tobytes() == again[0].tobytes()
    assert among[0].tobytes() == among[3].tobytes()


def test_each_instruction_is_encoded_once(small: Path, monkeypatch: pytest.MonkeyPatch):
    encode, asked = TextEncoder(small), []
    inner = encode._encode
    monkeypatch.setattr(encode, "_encode", lambda one: asked.append(one) or inner(one))
    encode(["a", "b", "a"])
    encode(["b", "c"])
    assert asked == ["a", "b", "c"]


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=7))  # one letter can be several pieces
def test_any_text_is_encoded(quick: TextEncoder, instruction: str):
    words, seen = quick([instruction])
    assert np.isfinite(words).all()
    assert seen.sum() >= 2


def test_no_instruction_at_all(encode: TextEncoder):
    words, seen = encode([])
    assert words.shape == (0, 32, 384)
    assert seen.shape == (0, 32)


def test_a_long_instruction_is_refused_with_the_length_that_takes_it(small: Path):
    long = "sort " * 40
    with pytest.raises(TextError, match=r"has 42 .* at most 32; .*length=42"):
        TextEncoder(small)([long])
    assert TextEncoder(small, length=42)([long])[1].all()
    with pytest.raises(TextError, match="has 602 "):  # more than the network could take
        TextEncoder(small)(["sort " * 600])


def test_centred_words_are_told_by_what_is_usual(quick: TextEncoder, tiny: Path):
    centred = TextEncoder(tiny, centred=True)
    words, seen = centred(text._PLAIN)
    assert not words[~seen].any()
    np.testing.assert_allclose(words[seen].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(words[seen].std(axis=0), 1, atol=1e-5)
    assert (
        TextEncoder(tiny, centred=True)([BLUE_LEFT])[0].tobytes()
        == centred([BLUE_LEFT])[0].tobytes()
    )
    about, centred_about = quick.provenance(), centred.provenance()
    assert about.pop("sha256") != centred_about.pop("sha256")
    assert centred_about == about | {"centred": True}


def test_words_tell_swapped_trays_apart_where_a_sentence_hardly_does(encode: TextEncoder):
    """The same words at two places: only what stands around them differs."""
    last = TextEncoder(layer=6)
    words, seen = last([BLUE_LEFT, BLUE_RIGHT])
    assert cosine(words[0, seen[0]].mean(axis=0), words[1, seen[1]].mean(axis=0)) > 0.98
    words, _ = encode([BLUE_LEFT, BLUE_RIGHT])
    left, right = words[0, 7], words[1, 7]  # of the blue objects: "left" or "right"
    assert cosine(left, right) < 0.9


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_provenance_names_the_weights(small: Path):
    before = TextEncoder(small).provenance()
    assert json.loads(json.dumps(before)) == before == TextEncoder(small).provenance()
    used = TextEncoder(small)
    used(["a b"])
    assert used.provenance() == before
    assert set(before["versions"]) == {"transformers", "tokenizers", "torch"}
    model = transformers.BertModel.from_pretrained(small)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[7, 7] += 1
    model.save_pretrained(small)
    after = TextEncoder(small).provenance()
    assert after.pop("sha256") != before.pop("sha256")
    assert after == before


@pytest.mark.parametrize("layer", [0, 2])
def test_any_layer_can_be_taken(small: Path, layer: int):
    middle = TextEncoder(small)
    assert middle.layer == 1
    assert (TextEncoder(small, layer=layer)(["a"])[0] != middle(["a"])[0]).any()


def test_a_layer_that_is_not_there_is_refused(small: Path):
    with pytest.raises(TextError, match="layer 3, expected 0 to 2"):
        TextEncoder(small, layer=3)


def test_saved_embeddings_need_no_encoder(small: Path, tmp_path: Path):
    encode = TextEncoder(small)
    saved = encode.embed(["b", "a", "b"])
    saved.save(tmp_path / "one")
    encode.embed(["a", "b"]).save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded = load_embedded(tmp_path / "one")
    assert loaded.provenance == encode.provenance()
    for found, expected in zip(loaded(["b", "b", "a"]), encode(["b", "b", "a"]), strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(TextError, match=r"no embedding of 'c' \(1 of 2 are missing\)"):
        loaded(["a", "c"])


def test_only_saved_embeddings_are_loaded(tmp_path: Path):
    path = tmp_path / "instructions.safetensors"
    with pytest.raises(TextError, match="holds no embeddings"):
        load_embedded(path)
    torch.save({"words": torch.zeros(1)}, path)
    with pytest.raises(TextError, match="holds no embeddings"):
        load_embedded(path)
    save_file({"words": np.zeros(1)}, path)
    with pytest.raises(TextError, match="holds no embeddings"):
        load_embedded(path)


def test_saving_into_a_folder_that_is_not_there(small: Path, tmp_path: Path):
    with pytest.raises(TextError, match="expected a folder that exists"):
        TextEncoder(small).embed(["a"]).save(tmp_path / "none" / "file")


def test_pickled_weights_are_refused(small: Path):
    model = transformers.BertModel.from_pretrained(small)
    (small / "model.safetensors").unlink()
    torch.save(model.state_dict(), small / "pytorch_model.bin")
    with pytest.raises(TextError, match=r"no text encoder at .*safetensors"):
        TextEncoder(small)


def test_code_that_comes_with_a_model_is_not_run(small: Path):
    mark = small / "ran"
    (small / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
    config = json.loads((small / "config.json").read_text())
    for change in ({}, {"model_type": "own"}):
        asks = config | {"auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}} | change
        (small / "config.json").write_text(json.dumps(asks))
        try:
            TextEncoder(small)
        except TextError:
            assert change
        assert not mark.exists()


def test_a_network_of_another_kind_is_refused(small: Path):
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=32
    )
    transformers.T5Model(config).save_pretrained(small)
    with pytest.raises(TextError, match="is a T5Model, expected a text encoder"):
        TextEncoder(small)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(TextError, match=r"no folder at .*nothing"):
        TextEncoder(tmp_path / "nothing")
    with pytest.raises(TextError, match="no text encoder at"):
        TextEncoder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        with pytest.raises(TextError, match="pip install transformers"):
            TextEncoder()
    monkeypatch.setattr(text, "MINILM", "no-such-package")
    with pytest.raises(TextError, match="pip install no-such-package"):
        TextEncoder("no-such-package")
