"""Texts, images and tables as datasets of a fine-tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.dataset import Dataset
from assay.optim import SettingError


def texts(name: str, tokenizer: Any, lines: Sequence[str], labels: Sequence[int], length: int) -> Dataset:
    """Tokens (i32 [length]), mask (u8 [length]) and label (i32) of each text, cut or padded to `length` tokens: what
    `classification` takes. `tokenizer` is one of transformers. Raises SettingError."""
    if len(lines) != len(labels) or not len(lines):
        raise SettingError(f"texts: {len(lines)} texts and {len(labels)} labels; there must be as many, and at least one")
    made = tokenizer(list(lines), padding="max_length", truncation=True, max_length=length, return_tensors="np")
    tokens, mask = made["input_ids"].astype(np.int32), made["attention_mask"].astype(np.uint8)
    return Dataset(name, tokens=tokens, mask=mask, label=np.asarray(labels, np.int32))


def images(name: str, pixels: Any, labels: Sequence[int]) -> Dataset:
    """Pixels (f32 [channels, height, width], as the model's own processor would scale them) and label (i32): what `classification` takes
    with a vision model. Raises SettingError."""
    made = np.asarray(pixels, np.float32)
    if made.ndim != 4 or len(made) != len(labels):
        raise SettingError(f"images: {len(labels)} labels and pixels {list(made.shape)}, which must be [as many, channels, height, width]")
    return Dataset(name, pixels=made, label=np.asarray(labels, np.int32))


def windows(name: str, tokenizer: Any, text: str, context: int) -> Dataset:
    """Windows of `context` + 1 tokens (i32), each beginning with the last of the one before: what `language` takes. Raises SettingError."""
    tokens = np.asarray(tokenizer(text, return_tensors="np", verbose=False)["input_ids"][0], np.int32)
    count = (len(tokens) - 1) // context
    if count < 1:
        raise SettingError(f"windows: {len(tokens)} tokens are not one window of {context} + 1")
    return Dataset(name, tokens=np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[: count * context : context])


class Table:
    """Columns as numbers: those of numbers are standardised (a missing value is the mean), those of texts become one column for each
    value (one never seen is all zeros). What was learnt of the columns is applied to other rows by `encode`.

    `columns`: name -> values, one a row. Raises SettingError."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        if not columns or len({len(values) for values in columns.values()}) != 1:
            raise SettingError("Table: give columns of one length: Table({'age': [...], 'sex': [...]})")
        self._numbers: dict[str, tuple[float, float]] = {}
        self._kinds: dict[str, list[str]] = {}
        for name, values in columns.items():
            if any(isinstance(value, str) for value in values):
                self._kinds[name] = sorted({str(value) for value in values if value is not None})
            else:
                numbers = _floats(values)
                if np.isnan(numbers).all():
                    raise SettingError(f"Table: column {name!r} has no value")
                self._numbers[name] = float(np.nanmean(numbers)), float(np.nanstd(numbers)) or 1.0
        self.width = len(self._numbers) + sum(len(kinds) for kinds in self._kinds.values())

    def encode(self, columns: Mapping[str, Sequence[Any]]) -> NDArray[np.float32]:
        """[rows, width]. Raises SettingError for a column that is missing."""
        if lacking := sorted((self._numbers.keys() | self._kinds.keys()) - columns.keys()):
            raise SettingError(f"Table: column {lacking[0]!r} is missing")
        made = []
        for name, (mean, deviation) in self._numbers.items():
            values = (_floats(columns[name]) - mean) / deviation
            made.append(np.where(np.isnan(values), 0.0, values)[:, None])
        for name, kinds in self._kinds.items():
            made.append(np.array([[str(value) == kind for kind in kinds] for value in columns[name]], np.float64))
        return np.concatenate(made, axis=1).astype(np.float32)

    def dataset(self, name: str, columns: Mapping[str, Sequence[Any]], labels: Sequence[int]) -> Dataset:
        """Fields `row` (f32 [width]) and `label` (i32)."""
        return Dataset(name, row=self.encode(columns), label=np.asarray(labels, np.int32))


def _floats(values: Sequence[Any]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else float(value) for value in values])
