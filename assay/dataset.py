"""Datasets: records that are all alike, as arrays whose first axis counts them.

A record is what the loss sees once: a window of a text, an image with its label. What follows from it (shards, their roots, their
keys) is made when a job is published (assay.shard); which records make up which micro-batch is decided by assay.sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.job import Field
from assay.optim import SettingError
from assay.state import dtype_name

_STORED_AS = {"float16": "float32", "float64": "float32", "int8": "int32", "int16": "int32", "uint16": "int32", "uint32": "int64"}


def demo_text() -> str:
    """Romeo and Juliet and Macbeth, 245,000 characters in the public domain; the wheel carries them."""
    return resources.files("assay").joinpath("_data/text/shakespeare.txt").read_text("utf-8")


class Vocabulary:
    """The characters of a text, in code point order, numbered from 0."""

    def __init__(self, text: str) -> None:
        self.characters = "".join(sorted(set(text)))
        self._number = {c: i for i, c in enumerate(self.characters)}

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> list[int]:
        """Raises SettingError for a character that the vocabulary lacks."""
        try:
            return [self._number[c] for c in text]
        except KeyError as error:
            raise SettingError(f"the vocabulary has no character {error.args[0]!r}") from None

    def decode(self, tokens: Any) -> str:
        return "".join(self.characters[int(t)] for t in tokens)


class Dataset:
    """Named arrays with one record a row: `Dataset("digits", image=x, label=y)`.

    float64 and float16 become float32, small integers int32 or int64. Raises SettingError for arrays that do not fit together.
    """

    def __init__(self, name: str, **arrays: Any) -> None:
        self.name = name
        self.arrays: dict[str, NDArray[Any]] = {}
        self.vocabulary: Vocabulary | None = None
        if not name or not isinstance(name, str):
            raise SettingError("Dataset: the first argument is its name")
        for field, data in sorted(arrays.items()):
            array = np.asarray(data)
            array = np.ascontiguousarray(array, dtype=_STORED_AS.get(array.dtype.name, array.dtype))
            if array.dtype.name not in ("float32", "int32", "int64", "uint8", "bool"):
                raise SettingError(f"Dataset {name!r}: field {field!r} has dtype {array.dtype}: give floats, integers or bools")
            if array.ndim == 0 or len(array) == 0:
                raise SettingError(f"Dataset {name!r}: field {field!r} has no records: its first axis counts them")
            self.arrays[field] = array
        lengths = {field: len(array) for field, array in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise SettingError(f"Dataset {name!r}: its fields need the same number of records, they have {lengths or 'no fields'}")

    @classmethod
    def from_text(cls, name: str, text: str, context: int) -> Dataset:
        """Windows of `context` + 1 characters, each beginning with the last of the one before: field `tokens`, u8 (i32 for more
        than 256 characters). `dataset.vocabulary` encodes and decodes."""
        vocabulary = Vocabulary(text)
        count = (len(text) - 1) // context
        if count < 1:
            raise SettingError(f"Dataset {name!r}: {len(text)} characters are not one window of {context} + 1")
        tokens = np.array(vocabulary.encode(text), dtype=np.uint8 if len(vocabulary) <= 256 else np.int32)
        windows = np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[: count * context : context]
        dataset = cls(name, tokens=windows)
        dataset.vocabulary = vocabulary
        return dataset

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def fields(self) -> tuple[Field, ...]:
        return tuple(Field(name=n, dtype=dtype_name(a), shape=a.shape[1:]) for n, a in self.arrays.items())

    def read(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Records by number: `[len(indices), *shape]` for each field."""
        return {name: array[np.asarray(indices)] for name, array in self.arrays.items()}
