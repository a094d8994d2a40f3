"""Tables as records: a row of a CSV or Parquet file is one.

Numbers are taken as they are: integers i64, others f32, bools bool, one field a column; with a label, all other columns together are the field
`features`, f32 [columns]. A column of texts is taken only with the list of its values (`How.categories`), each of which becomes its place
in the list: the list is public, so it is the owner who writes it. The first row of a CSV names the columns. Arrow reads both forms.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.publish.readers import BATCH, BadFile, How, taken
from assay.shard import MAX_FIELDS
from assay.state import Tensors

Column = NDArray[Any]


def rows(path: Path, how: How) -> Iterator[Tensors]:
    """Batches of a table. Raises BadFile, which counts rows of data from 0."""
    first = 0
    for names, columns, count in _batches(path):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise BadFile(f"its columns are not told apart: {sorted(twice)[0]!r} is there twice")
        wanted = [*(how.columns or [name for name in names if name != how.label]), *([how.label] if how.label else [])]
        wanted = list(dict.fromkeys(wanted))
        absent = [name for name in wanted if name not in names]
        if absent:
            raise BadFile(f"it has no column {absent[0]!r}; it has {', '.join(names[:20])}")
        values = {name: _numbers(name, columns[names.index(name)], how, first) for name in wanted}
        if count:
            yield _records(values, how)
        first += count
    if not first:
        raise BadFile("it has no rows")


def features(path: Path, how: How) -> tuple[str, ...]:
    """The columns that `features` holds, in order. Raises BadFile."""
    names = next(iter(_batches(path)))[0]
    return tuple(name for name in (how.columns or names) if name != how.label)


def _records(values: dict[str, Column], how: How) -> Tensors:
    if how.label is None:
        if len(values) > MAX_FIELDS:
            raise BadFile(f"it has {len(values)} columns, over the limit of {MAX_FIELDS} fields: name a --label, so that the others become one field")
        return {name: taken(name, column) for name, column in values.items()}
    label = values.pop(how.label)
    if not values:
        raise BadFile("it has no column beside the label")
    stacked = np.stack([column.astype(np.float32) for column in values.values()], axis=1)
    return {"features": taken("features", stacked), "label": taken(how.label, label)}


def _batches(path: Path) -> Iterator[tuple[list[str], list[Any], int]]:
    """Names, columns (Arrow arrays) and rows."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if path.suffix.lower() == ".csv":
            table = csv.read_csv(path, convert_options=csv.ConvertOptions(strings_can_be_null=True))
            batches = table.to_batches(max_chunksize=BATCH) or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        else:
            file = parquet.ParquetFile(path)
            batches = file.iter_batches(batch_size=BATCH) if file.metadata.num_rows else []
        for batch in batches:
            yield list(batch.schema.names), list(batch.columns), batch.num_rows
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise BadFile(f"it is no table that can be read: {error}") from None


def _numbers(name: str, column: Any, how: How, first: int) -> Column:
    import pyarrow as pa

    listed = dict(how.categories).get(name)
    if listed is not None:
        return _codes(name, column, listed, how, first)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise BadFile(f"column {name!r} holds {kind}, not numbers: list its values with --category {name}=A,B, or leave it out with --columns")
    if column.null_count:
        if how.missing is None:
            row = first + next(i for i, value in enumerate(column.is_null().to_pylist()) if value)
            raise BadFile(f"column {name!r} is empty in row {row}: --missing VALUE says what stands for it")
        floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False).copy()
        floats[np.isnan(floats)] = how.missing
        return np.asarray(floats, np.float32)
    array = np.asarray(column.to_numpy(zero_copy_only=False))
    if array.dtype.kind in "iu":
        if array.dtype == np.uint64 and len(array) and int(array.max()) >= 1 << 63:
            raise BadFile(f"column {name!r} holds integers over 2^63")
        return array.astype(np.int64)
    return array


def _codes(name: str, column: Any, listed: tuple[str, ...], how: How, first: int) -> Column:
    number = {value: code for code, value in enumerate(listed)}
    codes = []
    for row, value in enumerate(column.to_pylist()):
        if value is None and how.missing is not None:
            codes.append(int(how.missing))
        elif str(value) in number:
            codes.append(number[str(value)])
        else:
            said = "is empty" if value is None else f"has a value that --category {name}=… does not list"
            raise BadFile(f"column {name!r} {said} in row {first + row}")
    return np.array(codes, np.int64)
