"""What an earlier report in OUT has besides the analyzers that are named now: it stays, derived anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.analysis.request import AnalysisRequest

if TYPE_CHECKING:
    from pipeline.store import Store


def with_earlier(store: Store, request: AnalysisRequest) -> AnalysisRequest:
    """The request with the further analyzers of the report in OUT, in the order of a whole report, and their settings.

    Unchanged where all analyzers are asked for, or where OUT has no report of this store.
    """
    from analyzers import registry

    attributes = _attributes(request.out_path / "report.zarr") if request.analyzers else {}
    if not attributes or Path(attributes.get("store", "")).absolute() != store.path.absolute():
        return request
    earlier = {str(described["name"]) for described in json.loads(attributes.get("analyzers", "[]"))}
    kept = earlier.difference(request.analyzers)
    settings = json.loads(attributes.get("options", "{}")).get("settings", {})
    merged = {name: keys for name, keys in settings.items() if name in kept} | request.settings
    names = tuple(name for name in registry.names() if name in kept or name in request.analyzers)
    return request.model_copy(update={"analyzers": names, "settings": merged})


def _attributes(report: Path) -> dict[str, Any]:
    from pipeline.report.files import is_report, root_attributes

    return root_attributes(report) if is_report(report) else {}
