"""Tensors with one row a slot: gathered for the slots of a batch, written back, grown, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shared.errors import InvalidInputError


class Slots:
    """Named float32 tensors whose first dimension counts slots; a new slot holds each tensor's initial value."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], initial: Mapping[str, float] | None = None) -> None:
        self._initial = {name: (initial or {}).get(name, 0.0) for name in shapes}
        self._tensors = {name: torch.empty((0, *shape)) for name, shape in shapes.items()}

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    @property
    def bytes_per_slot(self) -> int:
        """Memory that one slot takes."""
        return sum(4 * tensor.shape[1:].numel() for tensor in self._tensors.values())

    def grow(self, slots: int) -> None:
        """Have at least this many slots."""
        if slots <= len(self):
            return
        more = max(slots, 2 * len(self)) - len(self)
        for name, tensor in self._tensors.items():
            fresh = torch.full((more, *tensor.shape[1:]), self._initial[name])
            self._tensors[name] = torch.cat([tensor, fresh])

    def forget(self, slots: Tensor) -> None:
        """Give slots their initial values again."""
        for name, tensor in self._tensors.items():
            tensor[slots] = self._initial[name]

    def read(self, slots: Tensor) -> dict[str, Tensor]:
        """Copies of the rows of these slots."""
        return {name: tensor.index_select(0, slots) for name, tensor in self._tensors.items()}

    def write(self, slots: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Put rows back; names that are left out stay."""
        for name, row in rows.items():
            self._tensors[name].index_copy_(0, slots, row)

    def snapshot(self) -> dict[str, Tensor]:
        """The tensors themselves, to be saved."""
        return dict(self._tensors)

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Whether saved tensors fit. Raises InvalidInputError when names or shapes are another version's."""
        for name, tensor in self._tensors.items():
            saved = tensors.get(name)
            if saved is None or saved.shape[1:] != tensor.shape[1:]:
                found = None if saved is None else tuple(saved.shape)
                raise InvalidInputError(f"snapshot.{name}", found, f"must have the shape {tuple(tensor.shape)}")

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take saved tensors. Raises InvalidInputError."""
        self.check(tensors)
        self._tensors = {name: tensors[name].clone() for name in self._tensors}
