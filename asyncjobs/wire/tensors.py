"""How torch tensors on the CPU travel: as numpy arrays, whose buffers stay out of the pickle.

torch's own reduction writes the storage into a file in memory, and that into the pickle.
Loads torch only where it is loaded already, or where a tensor arrives.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

PROTOCOL = 5


def is_needed() -> bool:
    """Whether there can be tensors in this process."""
    return "torch" in sys.modules


def dumps(value: object, leave_out: Callable[[pickle.PickleBuffer], object]) -> bytes:
    """C pickle that reduces tensors in our way, wherever they are in `value`."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, PROTOCOL, buffer_callback=leave_out)
    # Of this pickler only: what other code does with its tensors is not ours to change.
    pickler.dispatch_table = {**copyreg.dispatch_table, sys.modules["torch"].Tensor: _reduce}
    pickler.dump(value)
    return stream.getvalue()


def _reduce(tensor: Any) -> Any:
    torch = sys.modules["torch"]
    is_plain = (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.is_leaf
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or vars(tensor))
    )
    if not is_plain:
        return tensor.__reduce_ex__(PROTOCOL)
    # numpy knows no bfloat16: the same bits under another name.
    bits = tensor.detach().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor.detach()
    return _rebuild, (bits.numpy(), str(tensor.dtype).removeprefix("torch."), tensor.requires_grad)


def _rebuild(array: Any, dtype: str, requires_grad: bool) -> Any:
    import torch

    tensor = torch.from_numpy(array)
    wanted = getattr(torch, dtype)
    if tensor.dtype != wanted:
        tensor = tensor.view(wanted)
    return tensor.requires_grad_(requires_grad)
