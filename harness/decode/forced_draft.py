"""Drafts of the last blocks on raw embeddings, over given tokens in one parallel pass: how such drafts are trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness.decode.forced_memory import ContinuedMemory
from harness.decode.prompt_pass import Forced, Through, around, at_once
from harness.models.block import Context
from harness.models.decoder import Decoder

KeysValues = tuple[torch.Tensor, torch.Tensor]


def drafted(
    decoder: Decoder,
    forced: Forced,
    targets: torch.Tensor,
    owners: torch.Tensor | None,
    blocks: int,
    window: int,
    through: Through = at_once,
) -> torch.Tensor:
    """States of drafts at every column of continuations.

    The columns are cut into windows, the first one beginning right after the prompt. A draft at a column runs the last blocks on
    the token's embedding; it looks at the full model's keys and values of the prompt and of all windows before, and at those
    of the drafts of its own window up to itself: what decoding computes after it verified the windows before.

    Args:
        decoder: the model.
        forced: the full model's pass over the same continuations, with `keep_blocks`.
        targets: right-padded continuation ids [N, T], as in `force`.
        owners: prompt row of each continuation [N]; None when row n continues prompt n.
        blocks: last blocks that draft, fewer than all.
        window: columns of a window.
        through: how blocks are called.

    Returns:
        [N, T, D] after the last block.
    """
    started, depth = forced.started, decoder.depth
    assert started is not None and len(forced.target_blocks) == depth, "drafts need a pass that kept its blocks"
    n, t = targets.shape
    width, device = started.hidden.shape[1], targets.device
    lengths = started.lengths if owners is None else started.lengths[owners]
    columns = torch.arange(t, device=device)
    positions = (lengths.unsqueeze(1) + columns).clamp_max(decoder.geometry.max_positions - 1)
    place = columns // window
    seen = (torch.arange(width, device=device) < lengths.unsqueeze(1))[:, None, None, :].expand(n, 1, t, width)
    before = (place.unsqueeze(1) > place).expand(n, 1, t, t)
    own = ((place.unsqueeze(1) == place) & (columns.unsqueeze(1) >= columns)).expand(n, 1, t, t)
    context = Context(positions, torch.cat((seen, before, own), dim=3))
    layers = range(depth - blocks, depth)
    deep = {layer: decoder.blocks[layer].keys_values(forced.target_blocks[layer - 1], context) for layer in layers}
    memory = _Beside(started.memory.continued(owners), deep)
    calls = ((layer, True, True) for layer in layers)
    return decoder.run_blocks(calls, decoder.embed(targets, positions), memory, context, around(through))


class _Beside:
    """The keys and values of drafts behind those of the full model at the same columns."""

    def __init__(self, before: ContinuedMemory, deep: Mapping[int, KeysValues]) -> None:
        self._before, self._deep = before, deep

    def extend(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> KeysValues:
        """See `Memory.extend`."""
        deep_keys, deep_values = self._deep[layer]
        keys, values = torch.cat((deep_keys, keys), dim=1), torch.cat((deep_values, values), dim=1)
        return self._before.extend(layer, keys, values, torch.cat((positions, positions), dim=1))

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor) -> None:
        """See `Memory.write`; whole blocks attend, so nothing asks for this."""

    def key_positions(self, layer: int) -> torch.Tensor:
        """See `Memory.key_positions`."""
        return self._before.key_positions(layer)
