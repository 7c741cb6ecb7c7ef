"""Read what a pickle says without unpickling it: no class is imported, no function of the file's choosing is called.

A checkpoint of PyTorch is a pickle, and a pickle is a program: `pickle.load` runs whatever it names (fairseq issue 5603). Here
`pickletools` only decodes its instructions, and a small stack machine carries out those that build data. Every name in the file
is looked up in a table of ours: tensors are rebuilt, ordered dictionaries are dictionaries, a configuration class becomes `Opaque`,
which only remembers what it was given. Any other name is refused, and named in the error. Files of tensors are opened by
`convert.safe_load.torch_file`.
"""

import io
import pickletools
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from biomlm.convert.safe_load.budget import ENTRY, OBJECT, SLOT, Budget, Program
from biomlm.core.errors import CheckpointError, UnsafeFileError, kind

STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}

PLAIN_TYPES = ("dict", "list", "tuple", "str", "unicode", "bytes", "int", "long", "float", "bool", "object")

# Configuration, meters and optimiser states of the programs whose checkpoints we read. They become inert `Opaque` objects.
INERT = {
    "argparse.Namespace",
    "typing.Any",
    "pathlib.PosixPath",
    "datetime.timedelta",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "torch.device",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "deepspeed.utils.tensor_fragment.fragment_address",
    *(f"torch.{str(dtype).removeprefix('torch.')}" for dtype in STORAGES.values()),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in PLAIN_TYPES),
}
INERT_CLASSES = re.compile(r"(omegaconf|fairseq|deepspeed|megatron|composer|torchmetrics)(\.[a-z]\w*)*\.[A-Z]\w*")

MARK = object()


@dataclass(eq=False)
class Opaque:
    """An object of an allowed class, kept as data.

    Args:
        name: Its class.
        args: What its constructor would have been given.
        state: What its attributes would have been set to.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True)
class Global:
    """A name that the file mentions and the table allows.

    Args:
        name: Module and attribute, joined by a dot.
        make: What stands in for calling it.
    """

    name: str
    make: Callable[..., Any]


def rebuild_tensor(base: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """View a storage (one row of numbers) as a tensor, within its bounds; trailing arguments (gradients, hooks) are dropped."""
    numbers = [offset, *size, *stride]
    if not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
        raise ValueError("a tensor's shape is no list of sizes")
    count = 1
    for n in size:
        count *= n
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= len(base) or count > len(base)):
        raise ValueError("a tensor reaches beyond its storage")
    return base.as_strided(size, stride, offset) if count else base.new_empty(size)


def _latin1(text: str, codec: str) -> bytes:
    if codec != "latin1":
        raise ValueError("bytes in another coding than latin1")
    return text.encode("latin1")


def _of_pairs(items: Any) -> dict[Hashable, Any]:
    if not isinstance(items, (list, tuple)) or not all(
        isinstance(item, (list, tuple)) and len(item) == 2 for item in items
    ):
        raise ValueError("an ordered dictionary of something that is no pairs")
    return pairs([part for item in items for part in item])


def _typed(rebuild: Global, _type: Global, args: tuple[Any, ...], _state: object) -> Any:
    """Rebuild a tensor of a subclass or with attributes as the tensor alone."""
    return rebuild.make(*args)


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda items=(): _of_pairs(items),
    "collections.defaultdict": lambda *_: {},
    "builtins.set": lambda items=(): set(keys(items)),
    "__builtin__.set": lambda items=(): set(keys(items)),
    "_codecs.encode": _latin1,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": _typed,
}


def lookup(name: str, file: Path) -> Global:
    """Find the stand-in for a name.

    Raises:
        UnsafeFileError: It is not in the table.
    """
    module, _, kind = name.rpartition(".")
    if module in ("torch", "torch.cuda") and kind.removesuffix("Storage") in STORAGES and kind.endswith("Storage"):
        return Global(name, lambda *_: None)
    if name in CALLS:
        return Global(name, CALLS[name])
    if name in INERT or INERT_CLASSES.fullmatch(name):
        return Global(name, lambda *args: Opaque(name, args))
    raise UnsafeFileError(
        f"this file wants to use `{name}`, which could run code; it was not run",
        file=file,
        remedy="Do not open it with other tools either; ask its author for safetensors.",
    )


def storage_dtype(storage: object) -> torch.dtype:
    """Give the number type of a storage class that the file names, such as `torch.HalfStorage`."""
    if not isinstance(storage, Global) or not storage.name.endswith("Storage"):
        raise ValueError("a storage of no known type")
    return STORAGES[storage.name.rpartition(".")[2].removesuffix("Storage")]


@dataclass
class Machine:
    """A stack machine that carries out one pickle's instructions.

    Args:
        file: For messages.
        storage: Gives the numbers of a storage, a flat tensor, from its persistent id.
    """

    file: Path
    storage: Callable[[tuple[Any, ...]], Tensor]
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.file)

    def run(self, stream: IO[bytes] | bytes) -> Any:
        """Read one pickle from where the stream stands, up to and including its end.

        Raises:
            UnsafeFileError: It names something that is not allowed.
            CheckpointError: It is damaged, or does what no checkpoint does.
        """
        try:
            program = io.BytesIO(stream) if isinstance(stream, bytes) else stream
            for opcode, arg, _ in pickletools.genops(Program(program)):  # type: ignore[arg-type]
                self.budget.charge(SLOT)
                self.step(opcode.name, arg)
            return self.stack.pop()
        except UnsafeFileError:
            raise
        except Exception as error:  # whatever a damaged program makes a stack machine stumble over
            raise CheckpointError(
                f"this is not a whole checkpoint ({kind(error)})",
                file=self.file,
                remedy="Get the file again and compare its size or hash with the publisher's.",
            ) from None

    def step(self, name: str, arg: Any) -> None:
        """Carry out one instruction."""
        if name in VALUES:
            self.budget.charge_made(arg)
            self.stack.append(arg)
        elif name in EMPTY:
            self.budget.charge(OBJECT if name.startswith("EMPTY") else 0)
            self.stack.append(EMPTY[name]())
        elif name in ACTIONS:
            ACTIONS[name](self, arg)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"instruction {name}")

    def marked(self) -> list[Any]:
        """Take everything down to the last mark off the stack."""
        start = next(i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is MARK)
        items = self.stack[start + 1 :]
        self.budget.charge_made(items)
        del self.stack[start:]
        return items

    def extend(self, items: list[Any]) -> None:
        """Put items into the list or set on top of the stack."""
        target = self.stack[-1]
        self.budget.charge(ENTRY * len(items))
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(keys(items))
        else:
            raise ValueError("items for something that is no list")

    def update(self, items: list[Any]) -> None:
        """Put keys and values into the dictionary on top of the stack."""
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError("keys for something that is no dictionary")
        self.budget.charge(ENTRY * len(items))
        target.update(pairs(items))

    def call(self, args: Any) -> None:
        """Replace the name on top of the stack by what its stand-in makes of the arguments."""
        function = self.stack.pop()
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise ValueError("a call of something that is no name")
        given = [len(arg) for arg in args if isinstance(arg, (dict, set, frozenset, list, tuple, str, bytes))]
        self.budget.charge(SLOT * sum(given))  # the work, whatever comes of it
        value = function.make(*args)
        self.budget.charge_made(value)
        self.stack.append(value)

    def build(self, state: Any) -> None:
        """Give the object on top of the stack its attributes; dictionaries have none that matter."""
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif not isinstance(target, dict):
            raise ValueError("attributes for something that has none")

    def name(self) -> None:
        """Look up the name whose two halves are on top of the stack."""
        attribute, module = self.stack.pop(), self.stack.pop()
        if not isinstance(attribute, str) or not isinstance(module, str):
            raise ValueError("a name that is no text")
        self.stack.append(lookup(f"{module}.{attribute}", self.file))

    def persistent(self, key: Any) -> None:
        """Put the numbers of a storage on the stack."""
        if not isinstance(key, tuple) or not key or key[0] != "storage":
            raise ValueError("a persistent id that is no storage")
        self.budget.charge(OBJECT)
        self.stack.append(self.storage(key))


def pairs(items: list[Any]) -> dict[Hashable, Any]:
    """Make a dictionary of alternating keys and values."""
    return dict(zip(keys(items[::2]), items[1::2], strict=True))


def keys(items: list[Any]) -> list[Any]:
    """Return the items if each is a scalar or an enumeration's member: to hash a tuple nested a million deep would end the process."""
    if any(type(item) not in (str, int, float, bool, bytes, type(None), Opaque) for item in items):
        raise ValueError("a key that is no scalar")
    return items


VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}

EMPTY: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "MARK": lambda: MARK,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}


def _tuple(count: int) -> Callable[[Machine, Any], None]:
    def action(machine: Machine, _: Any) -> None:
        machine.budget.charge(OBJECT)
        items = [machine.stack.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(items)))

    return action


def _put(machine: Machine, index: int | None) -> None:
    machine.memo[len(machine.memo) if index is None else index] = machine.stack[-1]


def _set_item(machine: Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.update([key, value])


ACTIONS: dict[str, Callable[[Machine, Any], Any]] = {
    "TUPLE": lambda m, _: m.stack.append(tuple(m.marked())),
    **{f"TUPLE{count}": _tuple(count) for count in (1, 2, 3)},
    "LIST": lambda m, _: m.stack.append(m.marked()),
    "DICT": lambda m, _: m.stack.append(pairs(m.marked())),
    "FROZENSET": lambda m, _: m.stack.append(frozenset(keys(m.marked()))),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "ADDITEMS": lambda m, _: m.extend(m.marked()),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.update(m.marked()),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.marked(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.stack.append(m.memo[index])),
    "GLOBAL": lambda m, name: m.stack.append(lookup(name.replace(" ", "."), m.file)),
    "STACK_GLOBAL": lambda m, _: m.name(),
    "INST": lambda m, name: lookup(name.replace(" ", "."), m.file) and m.marked(),
    "REDUCE": lambda m, _: m.call(m.stack.pop()),
    "NEWOBJ": lambda m, _: m.call(m.stack.pop()),
    "BUILD": lambda m, _: m.build(m.stack.pop()),
    "BINPERSID": lambda m, _: m.persistent(m.stack.pop()),
}


def entries(value: Any) -> dict[str, Any]:
    """Give the attributes or keys of a configuration object: argparse's Namespace, omegaconf's DictConfig, a dictionary.

    Only this level is looked at, so no crafted nesting makes it long.
    """
    if isinstance(value, Opaque):
        value = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        if isinstance(value, dict) and "_content" in value:
            value = value["_content"]
    return (
        {key: _unwrapped(item) for key, item in value.items() if isinstance(key, str)}
        if isinstance(value, dict)
        else {}
    )


def _unwrapped(value: Any) -> Any:
    """Unwrap an omegaconf node or an enumeration's member; anything else is returned as it is."""
    if isinstance(value, Opaque) and isinstance(value.state, dict) and "_val" in value.state:
        return value.state["_val"]
    if isinstance(value, Opaque) and value.state is None and len(value.args) == 1:
        return value.args[0]
    return value
