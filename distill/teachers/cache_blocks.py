"""Encode a micro-batch's outputs as the bytes that a cache holds: arrays of integers and float16, regrouped and compressed with zlib.

Ids are sorted and stored as differences, and all first bytes of an array's values come before all second bytes. On the demo's
teacher that makes 137 bytes of a position at k = 64, where the plain arrays have 256 and 176 after compression (docs/log.md).
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import torch
from torch import Tensor

from biomlm.core.errors import DataError, kind
from biomlm.distill.losses.targets import Sampled, Targets, Top
from biomlm.model.device import send

Arrays = Mapping[str, npt.NDArray[Any]]

KINDS = ("|u1", "<u2", "<u4", "<f2")  # numbers alone: bytes from a file must never be read as Python objects
NONE_LEFT = "log_p"  # may be minus infinity: the logarithm of what remains where all pieces are kept
MOST_RATIO = 40  # of a block's bytes to those in the file: a bomb's is 1,000, the demo's 2
MOST_SMALL = 1 << 24  # bytes that even a small block may unpack to
MOST_PLACES = 1 << 24  # of a micro-batch's positions times the pieces of the one with most
LEVEL = 1  # of zlib: level 6 saves 5% more and takes four times as long
REMEDY = "Remove that file and run `biomlm distill cache` again: it goes on where it was."


def encode(arrays: Arrays) -> bytes:
    """Encode named arrays as one block.

    Raises:
        DataError: A number lies beyond fp16, in which teachers compute on some GPUs and which a cache holds.
    """
    for name, array in arrays.items():
        if (
            array.dtype == np.float16
            and (np.isnan(array) | np.isinf(array) & ((array > 0) | (name != NONE_LEFT))).any()
        ):
            raise DataError(
                f"a teacher's outputs ({name}) leave the range of fp16",
                remedy="Give --precision fp32; if it is their size as hidden states, learn from them without a cache.",
            )
    header = orjson.dumps([[name, array.dtype.str, array.shape] for name, array in arrays.items()])
    planes = [_planes(array) for array in arrays.values()]
    return zlib.compress(b"".join([len(header).to_bytes(4, "little"), header, *planes]), LEVEL)


def _planes(array: npt.NDArray[Any]) -> bytes:
    """Put all values' first bytes before all second bytes."""
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


def decode(block: bytes) -> dict[str, npt.NDArray[Any]]:
    """Decode the arrays of a block.

    Raises:
        DataError: The block is damaged.
    """
    try:
        raw = _unpacked(block)
        offset = 4 + int.from_bytes(raw[:4], "little")
        arrays = {}
        for name, number_type, shape in orjson.loads(raw[4:offset]):
            if number_type not in KINDS:
                problem = f"a block of answers is damaged: it holds an array of kind {str(number_type)[:8]}"
                raise DataError(problem, remedy=REMEDY)
            dtype = np.dtype(number_type)
            size = math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0:
                raise ValueError("a negative size")
            planes = np.frombuffer(raw, np.uint8, size, offset).reshape(dtype.itemsize, -1)
            arrays[name] = np.ascontiguousarray(planes.T).view(dtype).reshape(shape)
            offset += size
    except DataError:
        raise
    except (zlib.error, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"a block of answers is damaged ({kind(error)})", remedy=REMEDY) from None
    return arrays


def _unpacked(block: bytes) -> bytes:
    """Unpack a block, and no further than what can be one."""
    most = max(MOST_SMALL, MOST_RATIO * len(block))
    stream = zlib.decompressobj()
    raw = stream.decompress(block, most)
    if not stream.eof:
        problem = f"a block of answers is cut off or unpacks to over {MOST_RATIO} times its size"
        raise DataError(problem, remedy=REMEDY)
    return raw


def encode_targets(targets: Targets, vocab_size: int) -> dict[str, npt.NDArray[Any]]:
    """Turn predictions into arrays.

    Args:
        targets: Of kind `Top` or `Sampled`, in the host's memory.
        vocab_size: Pieces of the vocabulary; ids take 16 bits up to 65,536.
    """
    id_type = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    if isinstance(targets, Top):
        with_rest = torch.cat([targets.log_p_mk, targets.log_rest_m[:, None]], dim=1)
        return {"ids": _differences(targets.ids_mk, id_type), "log_p": with_rest.numpy().astype(np.float16)}
    assert isinstance(targets, Sampled)
    drawn_mk = targets.shares_mk > 0
    sizes_m = drawn_mk.sum(1)
    k = targets.shares_mk.shape[1]
    return {
        "sizes": sizes_m.numpy().astype(np.uint16),
        "drawn": targets.ids_mk[drawn_mk].numpy().astype(id_type),
        "times": (targets.shares_mk[drawn_mk] * k).round().numpy().astype(np.uint8 if k < 256 else np.uint16),
        "entropy": targets.entropy_m.numpy().astype(np.float16),
    }


def decode_targets(arrays: Arrays, vocab_size: int, device: torch.device) -> Targets:
    """Turn arrays back into predictions; 16-bit probabilities are scaled to sum to 1 again.

    Raises:
        DataError: They do not fit each other, name a piece beyond the vocabulary, or say that one position has too many.
    """
    try:
        return _top(arrays, vocab_size, device) if "log_p" in arrays else _sampled(arrays, vocab_size, device)
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"a block of answers is damaged ({kind(error)})", remedy=REMEDY) from None


def _top(arrays: Arrays, vocab_size: int, device: torch.device) -> Top:
    ids_mk = _known(np.cumsum(arrays["ids"], axis=1, dtype=np.int64), vocab_size)
    with_rest = send(torch.from_numpy(arrays["log_p"].astype(np.float32)), device).log_softmax(1)
    if with_rest.shape != (len(ids_mk), ids_mk.shape[1] + 1):
        raise ValueError("shapes that do not fit each other")
    return Top(send(torch.from_numpy(ids_mk), device), with_rest[:, :-1], with_rest[:, -1])


def _sampled(arrays: Arrays, vocab_size: int, device: torch.device) -> Sampled:
    sizes_m = arrays["sizes"].astype(np.int64)
    m, widest = len(sizes_m), int(sizes_m.max(initial=1))
    drawn = (int(sizes_m.sum()),)
    if m * widest > MOST_PLACES or [arrays[name].shape for name in ("entropy", "drawn", "times")] != [
        (m,),
        drawn,
        drawn,
    ]:
        raise ValueError("sizes that no micro-batch has")
    drawn_mk = np.arange(widest) < sizes_m[:, None]
    ids_mk, times_mk = np.zeros((m, widest), np.int64), np.zeros((m, widest), np.float32)
    ids_mk[drawn_mk], times_mk[drawn_mk] = _known(arrays["drawn"], vocab_size), arrays["times"]
    shares_mk = times_mk / np.maximum(times_mk.sum(1, keepdims=True), 1)
    parts = (ids_mk, shares_mk, arrays["entropy"].astype(np.float32))
    return Sampled(*(send(torch.from_numpy(part), device) for part in parts))


def _known(ids: npt.NDArray[Any], vocab_size: int) -> npt.NDArray[Any]:
    if ids.size and (ids.max() >= vocab_size or ids.min() < 0):
        raise ValueError("a piece beyond the vocabulary")
    return ids


def _differences(ids_mk: Tensor, id_type: type) -> npt.NDArray[Any]:
    return np.diff(ids_mk.numpy(), axis=1, prepend=0).astype(id_type)
