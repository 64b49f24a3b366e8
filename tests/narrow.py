"""Tables as versions of before 2026-11 wrote them: strings with 32-bit offsets."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from unime.data.tables import read_table, write_table


def narrow(path: Path) -> None:
    """Write a table again with narrow strings; it must have large ones."""
    table = read_table(path)
    large = [field.name for field in table.schema if pa.types.is_large_string(field.type)]
    assert large, f"{path} has no large strings"
    kinds = [
        field.with_type(pa.string()) if field.name in large else field for field in table.schema
    ]
    write_table(path, table.cast(pa.schema(kinds)))
