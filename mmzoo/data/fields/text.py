"""Texts as word pieces."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import Media, Text
from mmzoo.data.store.home import home
from mmzoo.errors import BadValue, MmzooError
from mmzoo.io.weights import hub_file, is_path

if TYPE_CHECKING:
    import numpy as np

#: the tokenizer that needs no file: `fitted` builds its vocabulary from the training texts
OWN = "own"
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
#: characters of a word that is a piece of its own although it occurs once
LONGEST = 20
#: characters of a text that are looked at
MOST_CHARACTERS = 100_000


@dataclass(frozen=True)
class Tokens(Field):
    """Word pieces of a text or of a pair: ids (length,) int32, mask (length,) uint8, and segment (length,) uint8 with `pair`.

    tokenizer: "own", a folder with tokenizer.json or a transformers tokenizer, or a name on the Hugging Face hub. special:
    the model's own frame ([CLS] text [SEP]), or the bare pieces. pair: the second text of a pair follows as segment 1 (an
    item without one has segment 0 only); without `pair` it is not used. What does not fit is cut off at the end, of a pair
    always the longer text first.

    "own" is a WordPiece vocabulary of the `words` most frequent lower-cased words of the training texts (ties by spelling)
    that occur at least `least` times, and of every character, alone and within a word; so any word of known characters can
    be spelt, and equal texts give equal vocabularies. A word of more than LONGEST characters must occur twice: where a
    script has no spaces, that is a sentence. vocabulary: what `fitted` has found.
    """

    tokenizer: str = OWN
    length: int = 128
    special: bool = True
    pair: bool = False
    words: int = 8000
    least: int = 2
    vocabulary: tuple[str, ...] = ()

    kind = "text"
    later = ("least",)

    def __post_init__(self) -> None:
        if not 4 <= self.length <= 1 << 16:
            raise BadValue(f"length must be from 4 to {1 << 16} word pieces, not {self.length!r}.")
        if self.words < 0:
            raise BadValue(f"words must be 0 or more, not {self.words!r}.")
        if self.least < 1:
            raise BadValue(f"least must be 1 or more, not {self.least!r}.")

    def arrays(self) -> Mapping[str, Array]:
        form = Array((self.length,), "int32")
        flags = Array((self.length,), "uint8")
        return {"ids": form, "mask": flags} | ({"segment": flags} if self.pair else {})

    def facts(self) -> Mapping[str, Any]:
        """vocabulary: the number of different ids; pad: the id of the padding. Raises MmzooError."""
        used = self._loaded()
        return {"vocabulary": used.get_vocab_size(), "pad": _pad(used)}

    def as_dict(self) -> dict[str, Any]:
        """A local tokenizer counts by its content, not by where it lies."""
        told = super().as_dict()
        if self.tokenizer != OWN:
            told.pop("least", None)  # of a vocabulary that is made here
        if self.tokenizer != OWN and is_path(self.tokenizer):
            told["tokenizer"] = "sha256:" + hashlib.sha256(self._loaded().to_str().encode()).hexdigest()
        return told

    def fitted(self, media: Iterable[Media]) -> Tokens:
        if self.tokenizer != OWN:
            return self
        counts: collections.Counter[str] = collections.Counter()
        split = _splitter()
        for one in media:
            for text in (one.text, one.pair or "") if isinstance(one, Text) else ():
                counts.update(word for word, _ in split(_clean(text)))
        return dataclasses.replace(self, vocabulary=_vocabulary(counts, self.words, self.least))

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        import numpy as np

        if not isinstance(media, Text):
            raise MediaFault("value", f"a text is asked for, not {type(media).__name__}")
        used = self._loaded()
        second = _clean(media.pair) if self.pair and media.pair is not None else None
        encoded = used.encode(_clean(media.text), second, add_special_tokens=self.special)
        if not any(s == 0 for s in encoded.special_tokens_mask):
            raise MediaFault("empty", "a text without a word")
        n = len(encoded.ids)
        out = {name: np.zeros(a.shape, a.dtype) for name, a in self.arrays().items()}
        out["ids"][:] = _pad(used)
        out["ids"][:n], out["mask"][:n] = encoded.ids, 1
        if self.pair:
            out["segment"][:n] = encoded.type_ids
        return out

    def blank(self) -> Mapping[str, np.ndarray]:
        """One unknown piece, so that no row is padding only."""
        out = dict(super().blank())
        out["ids"][0], out["mask"][0] = (SPECIALS.index("[UNK]") if self.tokenizer == OWN else 0), 1
        return out

    def content(self) -> str:
        """The tokenizer as JSON, for a tokenizer.json elsewhere. Raises MmzooError where it cannot be read."""
        return str(self._loaded().to_str())

    def _loaded(self) -> Any:
        if self.tokenizer == OWN:
            if not self.vocabulary:
                raise BadValue("Tokens('own') must be fitted on the training texts before it reads.")
            return _own(self.vocabulary, self.length)
        return _given(self.tokenizer, self.length)


def reader(values: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], list[str]] | None:
    """What turns a batch of tokens (ids, mask) back into texts, lower-cased words apart by blanks as the tokenizer saw them.

    values: a field's, as a store keeps them. None where it is another field or its tokenizer is not here.
    """
    if values.get("field") != Tokens.__name__:
        return None
    tokenizer = str(values.get("tokenizer"))
    if tokenizer == OWN:
        return functools.partial(_spelt, tuple(values.get("vocabulary", ())))
    return None if tokenizer.startswith("sha256:") else functools.partial(_decoded, tokenizer)


def _spelt(vocabulary: tuple[str, ...], tokens: Mapping[str, Any]) -> list[str]:
    """Texts of pieces: those that begin with ## continue a word; the frame around a text is left out."""
    texts = []
    for ids, mask in zip(tokens["ids"].tolist(), tokens["mask"].tolist()):
        pieces = [vocabulary[i] for i, there in zip(ids, mask) if there]
        words = [p for p in pieces if p not in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")]
        texts.append(" ".join(words).replace(" ##", ""))
    return texts


def _decoded(tokenizer: str, tokens: Mapping[str, Any]) -> list[str]:
    used = _given(tokenizer, 1 << 16)
    rows = [[i for i, there in zip(*row) if there] for row in zip(tokens["ids"].tolist(), tokens["mask"].tolist())]
    split = _splitter()
    return [" ".join(word for word, _ in split(text)) for text in used.decode_batch(rows, skip_special_tokens=True)]


def _clean(text: str) -> str:
    """What a tokenizer can take: no half of a surrogate pair, and no end of a text that is too long to matter."""
    return text[:MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def _splitter() -> Any:
    """A function of a text that gives its words as BERT's tokenizer sees them, lower-cased, with where they are."""
    from tokenizers import normalizers, pre_tokenizers

    normal, words = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    return lambda text: words.pre_tokenize_str(normal.normalize_str(text))


def _vocabulary(counts: Mapping[str, int], words: int, least: int) -> tuple[str, ...]:
    characters = sorted({c for word in counts for c in word})
    kept = (w for w, n in counts.items() if len(w) > 1 and n >= (least if len(w) <= LONGEST else max(least, 2)))
    often = sorted(kept, key=lambda w: (-counts[w], w))
    pieces = [*SPECIALS, *characters, *(f"##{c}" for c in characters), *often[:words]]
    return tuple(dict.fromkeys(pieces))


@functools.lru_cache(4)
def _own(vocabulary: tuple[str, ...], length: int) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {piece: i for i, piece in enumerate(vocabulary)}
    made = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    made.enable_truncation(length, strategy="longest_first")
    return made


@functools.lru_cache(4)
def _given(name: str, length: int) -> Any:
    """The tokenizer of a folder or of the hub, cut at `length`. Raises MmzooError that says how to get it."""
    try:
        found = _read_given(Path(name).expanduser()) if is_path(name) else _from_hub(name)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        said = said if isinstance(error, MmzooError) else f"{type(error).__name__}: {said}"
        raise MmzooError(
            f"the tokenizer {name!r} cannot be read ({said}) Without a connection, copy its folder "
            f"(tokenizer.json, or vocab.txt and its config) from another machine to {home() / 'tokenizers' / name}, or take a "
            "recipe whose tokenizer is 'own', which needs no file."
        ) from None
    found.no_padding()
    found.enable_truncation(length, strategy="longest_first")
    return found


def _read_given(folder: Path) -> Any:
    from tokenizers import Tokenizer

    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        ).backend_tokenizer
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise MmzooError("it needs Python code of its own, which mmzoo never runs.") from None


def _from_hub(name: str) -> Any:
    """From the folder of that name below MMZOO_HOME/tokenizers, else the hub's cache, else the hub."""
    from tokenizers import Tokenizer

    folder = home() / "tokenizers" / name
    if folder.is_dir():
        return _read_given(folder)
    return Tokenizer.from_file(str(hub_file(name, ("tokenizer.json",), option="tokenizer")))


def _pad(used: Any) -> int:
    """The id of the padding token under its usual names, else 0."""
    ids = [used.token_to_id(name) for name in ("[PAD]", "<pad>", "<|endoftext|>")]
    return next((i for i in ids if i is not None), 0)
