"""A device that computes on the CPU and counts when the host waits for it: for tests of machines without a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("meta")  # the one device besides the CPU that autograd and factories take on any machine
# Operations whose result, or whose size of result, is a value on the device: the host waits for it.
WAITING = {
    "_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "equal", "is_nonzero", "repeat_interleave", "bincount", "count_nonzero",
}  # fmt: skip


class DeviceTensor(Tensor):
    """A tensor that says it is on `DEVICE`; ``on_cpu`` holds its values."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            on_cpu.shape,
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            device=DEVICE,
        )
        made.on_cpu = on_cpu
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.on_cpu!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of a PretendedDevice")


class PretendedDevice(TorchDispatchMode):
    """Within it `DEVICE` exists.

    Attributes:
        waits: name of an operation to how often the host waited for its result.
        copies_to_host, copies_to_device: numbers of copies.
        operations: dispatched in all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self.waits: Counter[str] = Counter()
        self.copies_to_host = self.copies_to_device = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        self.operations += 1
        name = func._schema.name.removeprefix("aten::")
        given = [x for x in _tensors((args, kwargs)) if isinstance(x, DeviceTensor)]
        target = kwargs.get("device")
        to_host = bool(given) and target is not None and torch.device(target).type == "cpu"
        to_device = target is not None and torch.device(target).type == DEVICE.type
        if given and not to_host and name != "copy_":
            for tensor in _tensors((args, kwargs)):
                same = isinstance(tensor, DeviceTensor) or tensor.dim() == 0
                assert same or name.startswith(("index", "_index")), f"{name} of tensors on two devices"
        if name in WAITING and given:
            self.waits[name] += 1
        if name in ("index", "index_put", "index_put_", "_index_put_impl_") and given:
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            self.waits[f"{name} by a mask"] += bool(masks)
        self.copies_to_host += to_host
        self.copies_to_device += to_device and not given and bool(_tensors(args))
        if to_device:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        result = func(*tree_map(_unwrapped, tuple(args)), **tree_map(_unwrapped, kwargs))
        if not ((given and not to_host) or to_device):
            return result
        return _like_inputs(result, args, kwargs)


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map(lambda x: found.append(x) if isinstance(x, Tensor) else None, tree)
    return found


def _unwrapped(x: Any) -> Any:
    return x.on_cpu if isinstance(x, DeviceTensor) else x


def _like_inputs(result: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The result wrapped; what an operation in place gives back is its own argument."""
    known = {id(x.on_cpu): x for x in _tensors((args, kwargs)) if isinstance(x, DeviceTensor)}

    def wrap(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, DeviceTensor):
            return x
        return known[id(x)] if id(x) in known else DeviceTensor(x)

    return tree_map(wrap, result)
