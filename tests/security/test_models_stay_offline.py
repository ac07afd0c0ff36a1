"""A model is built without the network, and no larger than its checkpoint, whatever the archive's config asks for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from analyzers.errors import ResourceError, Unmeasurable
from pipeline.models.build import build_model, clean_config
from pipeline.models.offline import OfflineError, offline
from tests.pipeline.models.families import checkpoint_of, tiny

pytest.importorskip("transformers", reason="transformers (extra hf) builds the models")


def _llama() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    model = tiny("llama")
    return dict(model.state_dict()), model.config.to_dict()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 10**2000),
        ("vocab_size", 10**9),
        ("hidden_size", 10**6),
        ("intermediate_size", 2**40),
        ("num_labels", 10**9),
        ("max_position_embeddings", 10**15),
        ("text_config", {"num_hidden_layers": 10**9}),
        ("depths", [10**8] * 9),
        ("id2label", {str(number): "x" for number in range(300_000)}),
    ],
)
def test_a_config_of_a_model_that_the_tensors_cannot_fill_is_refused_before_anything_is_built(
    setting: str, value: Any
) -> None:
    state, config = _llama()
    with pytest.raises(Unmeasurable):
        clean_config(checkpoint_of(state, {**config, setting: value}))


def test_a_model_of_many_times_the_stored_entries_is_not_built() -> None:
    state, config = _llama()
    wide = {**config, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 200, "head_dim": 64}
    with pytest.raises(Unmeasurable, match="entries, and the checkpoint holds"):
        build_model(checkpoint_of(state, wide))


def test_an_ordinary_config_is_left_as_it_is() -> None:
    state, config = _llama()
    ordinary = {**config, "max_window_layers": 80, "max_position_embeddings": 10_000_000, "rope_theta": 1e6}
    assert build_model(checkpoint_of(state, ordinary)).config.max_position_embeddings == 10_000_000


def test_code_of_a_part_of_the_config_is_dropped_too() -> None:
    state, config = _llama()
    nested = {**config, "text_config": {"auto_map": {"AutoModel": "evil--m.Evil"}, "_name_or_path": "evil", "a": 1}}
    assert clean_config(checkpoint_of(state, nested))["text_config"] == {"a": 1}


_BACKBONES = """
import sys, torch
from pipeline.models.build import build_model
from tests.pipeline.models.families import checkpoint_of
asked = []
def hook(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect"):
        asked.append((event, arguments[-2:]))
sys.addaudithook(hook)
state = {"model.query.weight": torch.zeros(4, 4)}
pretrained = {"use_pretrained_backbone": True}
for settings in (
    {"model_type": "detr", "use_timm_backbone": True, "backbone": "resnet50", **pretrained},
    {"model_type": "detr", "use_timm_backbone": False, "backbone": "microsoft/resnet-50", **pretrained},
    {"model_type": "dpt", "backbone": "facebook/dinov2-small", **pretrained},
    {"model_type": "llama", "num_hidden_layers": 1, "auto_map": {"AutoModel": "evil--m.M"}, "trust_remote_code": True},
):
    try:
        build_model(checkpoint_of(state, settings))
    except Exception as error:
        print(type(error).__name__, " ".join(str(error).split())[:200])
print("ASKED", asked)
"""


def test_backbones_and_hub_code_do_not_reach_the_network(tmp_path: Path) -> None:
    """In a process of its own, which is not told to be offline."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    command = [sys.executable, "-W", "ignore", "-c", _BACKBONES]
    told = subprocess.run(command, env={**environment, "HF_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert told.stdout.splitlines()[-1] == "ASKED []", told.stdout + told.stderr
    for line in told.stdout.splitlines()[:-1]:
        assert line.split()[0] in (Unmeasurable.__name__, ResourceError.__name__), line


def test_the_network_is_closed_to_this_thread_only() -> None:
    reached: list[str] = []

    def other() -> None:
        reached.append(socket.gethostbyname("127.0.0.1"))

    with offline():
        with pytest.raises(OfflineError, match="needs network access"):
            socket.getaddrinfo("localhost", 80)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert reached == ["127.0.0.1"]
    assert socket.getaddrinfo("127.0.0.1", 80)
