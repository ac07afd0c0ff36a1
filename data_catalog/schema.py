"""The JSON schema of a catalog entry, for editors: `python -m data_catalog.schema` rewrites schema.json."""

from __future__ import annotations

import json
from pathlib import Path

from data_catalog.entry import Entry

SCHEMA_FILE = Path(__file__).with_name("schema.json")


def schema_text() -> str:
    """schema.json as it should be for the `Entry` of this version."""
    return json.dumps(Entry.model_json_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
