"""Whose answers a cache of lm-eval holds: the name of a model under a method, and the refusal of another one's answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch

from harness.errors import BadInput, one_line
from harness.method import Method
from harness.models.decoder import Decoder

_OWNER = "depthbench:owner"


def weights_digest(decoder: Decoder) -> str:
    """Digest of all parameters and extra tensors: a checkpoint trained on under its old name is another one."""
    digest = hashlib.sha256()
    named = [*decoder.source.state_dict().items(), *decoder.extras.items()]
    for name, tensor in sorted(named):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def owner_name(method: Method, identity: Mapping[str, Any]) -> str:
    """Name that differs for every identity: model, checkpoint, method and setting."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return f"{method.name}-{digest}"


def check(file: str) -> None:
    """BadInput unless answers can be kept in `file`; said before anything is computed."""
    path = Path(file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except (OSError, sqlite3.Error, ValueError) as error:
        raise BadInput(f"use_cache: answers cannot be kept in {file} ({one_line(error)}); name another place") from None


def claim(store: MutableMapping[str, Any], name: str) -> None:
    """Make an empty cache that of `name`; BadInput where it holds another one's answers."""
    owner = store.get(_OWNER)
    if owner is None and len(store) == 0:
        store[_OWNER] = name
    elif owner != name:
        raise BadInput(f"use_cache: holds answers of {owner or 'another program'}, not of {name}; name another file")


def record_key(request: str) -> str:
    """Where a cache keeps the depths of a request, by the request's own key."""
    return f"{_OWNER}:{request}"
