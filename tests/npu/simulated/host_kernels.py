"""Give the real torch_npu, running over the fake CANN driver, working operators: PyTorch's CPU kernels on the same bytes.

Device memory is host memory, so a tensor on the npu and a CPU tensor over its storage are the same numbers. Every operator
that torch_npu registers for its dispatch key is replaced by one of
- nothing: views and allocation stay torch_npu's own;
- the operator's decomposition into simpler ones, where PyTorch has it as a composite;
- its CPU kernel, between two translations (npu tensors to host views, results to new npu tensors).
Tensors of different devices in one operator are refused, as on real hardware. Random numbers are drawn from the npu's own
generators (seed and offset decide, as in Philox), so they differ from the CPU's for the same seed, as on real hardware.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

NPU = "PrivateUse1"  # torch_npu's dispatch key
OWN = (  # operators that stay torch_npu's: allocation, storage, aliases
    "empty", "new_empty", "view", "as_strided", "_reshape_alias", "set_", "resize", "unfold", "record_stream", "is_pinned",
    "_pin_memory", "is_set_to", "_lazy_clone", "get_", "storage", "detach", "alias", "_npu", "npu_",
)  # fmt: skip
CROSS_DEVICE = {  # operators that may take tensors of more than one device
    f"aten::{name}" for name in ("copy_", "_to_copy", "_copy_from_and_resize", "index", "index_put", "index_put_", "_index_put_impl_")
}

_libraries: list[torch.library.Library] = []  # a registration lives as long as its library object
_driver: Any = None


def install(driver: ctypes.CDLL) -> dict[str, int]:
    """Register the kernels; returns how many operators were decomposed and how many run on the host."""
    global _driver
    _driver = driver
    library = torch.library.Library("aten", "IMPL")
    _libraries.append(library)
    counts = {"decomposed": 0, "host": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is replaced is the point
        for full in torch._C._dispatch_get_registrations_for_dispatch_key(NPU):
            found = _replacement(full)
            if found is not None:
                kind, kernel = found
                counts[kind] += 1
                library.impl(full.removeprefix("aten::"), kernel, NPU, allow_override=True)
        for full in torch._C._dispatch_get_registrations_for_dispatch_key(f"Autograd{NPU}"):
            operator = _operator(full)
            if operator is not None and "npu" not in full and _has(full, "CompositeImplicitAutograd"):
                counts["decomposed"] += 1
                library.impl(full.removeprefix("aten::"), _decomposed(operator), f"Autograd{NPU}", allow_override=True)
        for key in (NPU, f"Autograd{NPU}"):  # instead of npu_fusion_attention, which only CANN has
            library.impl("scaled_dot_product_attention", _attention, key, allow_override=True)
    return counts


def _replacement(full: str) -> tuple[str, Callable] | None:
    short = full.removeprefix("aten::")
    operator = _operator(full)
    if operator is None or short.startswith(OWN) or "npu_" in short:
        return None
    if short == "_local_scalar_dense":
        return "host", _item
    if _has(full, "CompositeImplicitAutograd"):
        return "decomposed", _decomposed(operator)
    if any(result.alias_info and not result.alias_info.is_write for result in operator._schema.returns):
        return None  # a view
    if torch._C._dispatch_has_computed_kernel_for_dispatch_key(full, "CPU"):
        return "host", _on_host(operator)
    return None


def _operator(full: str) -> Any:
    """The operator overload of 'aten::add.Tensor'; None for another namespace or one that Python does not see."""
    if not full.startswith("aten::"):
        return None
    base, _, overload = full.removeprefix("aten::").partition(".")
    return getattr(getattr(torch.ops.aten, base, None), overload or "default", None)


def _has(full: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(full, key)


def _decomposed(operator: Any) -> Callable:
    return lambda *args, **kwargs: operator.decompose(*args, **kwargs)


def host(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor over the same bytes as an npu tensor, with its shape and strides."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty(tensor.size(), dtype=tensor.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    raw = torch.frombuffer(memory, dtype=torch.uint8)
    return torch.empty(0, dtype=tensor.dtype).set_(raw.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def _to_npu(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    out = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)
    if tensor.numel():
        host(out).copy_(tensor)
    return out


def _on_npu(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "npu"


def _item(tensor: torch.Tensor) -> Any:
    """A number read back: this waits for the device."""
    _driver.fake_cann_wait(tensor.device.index)
    return host(tensor).item()


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # the math kernel wants an additive mask
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(attn_mask.logical_not(), float("-inf"))
    plain = torch.ops.aten._scaled_dot_product_attention_math
    return plain(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]


def _on_host(operator: Any) -> Callable:
    """The operator's CPU kernel between two translations."""
    arguments = operator._schema.arguments
    index_of = {argument.name: i for i, argument in enumerate(arguments)}
    random = torch.Tag.nondeterministic_seeded in operator.tags

    def kernel(*args: Any, **kwargs: Any) -> Any:
        call = _Call(operator)
        taken = [call.take(value, arguments[i]) for i, value in enumerate(args)]
        named = {name: call.take(value, arguments[index_of[name]]) for name, value in kwargs.items()}
        device = call.device()
        reads_back = _reads_back(operator._schema.name, args, kwargs)
        (_driver.fake_cann_wait if reads_back else _driver.fake_cann_launch)(device.index)
        if random and "generator" in index_of:
            place = index_of["generator"]
            seeded = torch.Generator().manual_seed(_next_seed(call.generator, device))
            if place < len(taken):
                taken[place] = seeded
            else:
                named["generator"] = seeded
        with torch._C._AutoDispatchBelowAutograd(), _seeded(call.generator, device, random and "generator" not in index_of):
            out = operator(*taken, **named)
            return call.give(out, device, to_cpu=reads_back and operator._schema.name == "aten::_to_copy")

    return kernel


class _Call:
    """One call's translation: which npu tensors were written to, and on which device it runs."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator
        self.across = operator._schema.name in CROSS_DEVICE
        self.written: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.devices: list[torch.device] = []
        self.mixed = False
        self.generator: torch.Generator | None = None

    def take(self, value: Any, argument: Any) -> Any:
        """What the CPU kernel gets instead of `value`."""
        writes = bool(argument.alias_info and argument.alias_info.is_write)
        if isinstance(value, torch.Tensor):
            if not _on_npu(value):
                self.mixed |= value.dim() > 0
                return value
            if value.dim() or not self.devices:
                self.devices.append(value.device)
            there = torch.empty(0, dtype=value.dtype) if writes and value.numel() == 0 else host(value)
            if writes:
                self.written.append((value, there))
            return there
        if isinstance(value, torch.device):
            if value.type != "npu":
                return value
            self.devices.insert(0, value)
            return torch.device("cpu")
        if isinstance(value, torch.Generator):
            self.generator = value
            return value
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return [self.take(item, argument) for item in value]
        if str(argument.type) == "Tensor" and isinstance(value, (bool, int, float)):
            return torch.tensor(value)
        return value

    def device(self) -> torch.device:
        """The device of the call. Raises as torch does where tensors of several devices meet."""
        indices = {device.index for device in self.devices if device.index is not None}
        if not self.across and (self.mixed or len(indices) > 1):
            second = "cpu" if self.mixed else str(self.devices[-1])
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{self.devices[0]} and {second}! ({self.operator})"
            )
        first = self.devices[0] if self.devices else torch.device("npu")
        return first if first.index is not None else torch.device("npu", torch.npu.current_device())

    def give(self, out: Any, device: torch.device, to_cpu: bool) -> Any:
        """The kernel's results as the caller expects them: the tensors written to, or new ones on the device."""
        for mine, there in self.written:
            if mine.shape != there.shape:
                mine.resize_(there.shape)
                host(mine).copy_(there)

        def back(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(back, value)) if type(value) in (list, tuple) else tuple(map(back, value))
            for mine, there in self.written:
                if value is there:
                    return mine
            return _to_npu(value, device) if isinstance(value, torch.Tensor) and value.device.type == "cpu" and not to_cpu else value

        return back(out)


def _reads_back(name: str, args: Any, kwargs: Any) -> bool:
    """Whether the call copies from the device to the host, which waits for the device."""
    if name == "aten::copy_":
        return args[0].device.type == "cpu"
    return name == "aten::_to_copy" and kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"


def _next_seed(generator: torch.Generator | None, device: torch.device) -> int:
    """A seed for one draw from an npu generator's seed and offset; the offset moves on."""
    if generator is None or generator.device.type != "npu":
        generator = torch.npu.default_generators[device.index]
    state = generator.get_state()
    seed, offset = struct.unpack("<Qq", bytes(state[:16].tolist()))
    moved = torch.frombuffer(bytearray(struct.pack("<Qq", seed, offset + 4)), dtype=torch.uint8)
    generator.set_state(torch.cat([moved, state[16:]]))
    return (seed * 6364136223846793005 + offset * 1442695040888963407 + 1) % 2**63


@contextlib.contextmanager
def _seeded(generator: torch.Generator | None, device: torch.device, needed: bool) -> Iterator[None]:
    """For random operators without a generator argument: the CPU's own state is put back afterwards."""
    if not needed:
        yield
        return
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(_next_seed(generator, device))
    try:
        yield
    finally:
        torch.set_rng_state(before)
