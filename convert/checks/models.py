"""What computes the two sides of the numerical check: the native model, or transformers' own class for a Hugging Face folder.

The two share torch and, on x86, the kernel that multiplies two matrices; names, order, norms, positions, attention and padding are each
one's own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from biomlm.convert.checks.heads import Head, by_formula, by_transformers
from biomlm.convert.names import hf_config
from biomlm.convert.safe_load.archive import scratch
from biomlm.core.errors import CheckpointError, kind
from biomlm.core.files import read_json
from biomlm.model.config import EncoderConfig
from biomlm.model.encoder import MaskedLM
from biomlm.model.kernels.linear import Linear
from biomlm.model.packed import pack


class Computes(Protocol):
    """A model of any library.

    Args:
        layers: The module that holds the list of layers, and the list's name in it.
        packs: Whether sequences of any lengths are computed together without padding.
        name: Whose code it is.
    """

    name: str
    layers: tuple[nn.Module, str]
    packs: bool

    def hidden(self, sequences: Sequence[list[int]]) -> list[Tensor]:
        """Compute hidden states after the embeddings and after each layer, [t, h] each, for the real tokens; the last one is the
        output, which pre-LN normalises.
        """

    def head(self) -> nn.Module | None:
        """Give the masked-LM head by itself: rows of the last hidden state [m, h] → vocabulary scores [m, v]; None if it has none."""

    def others(self, wanted: Sequence[Head], sequences: Sequence[list[int]]) -> dict[str, Tensor]:
        """Compute the outputs of other heads, by their modules' names (see `checks.heads`)."""


class TiedHead(nn.Module):
    """The native head together with the embeddings that it is tied to."""

    def __init__(self, model: MaskedLM):
        super().__init__()
        self.head, words = model.head, model.encoder.word_embeddings.weight
        self.decoder = Linear(words.shape[1], words.shape[0], device="meta")
        self.decoder.weight, self.decoder.bias = words, model.head.bias
        compute_in_float32(self.decoder)

    def forward(self, hidden_mh: Tensor) -> Tensor:
        """Map [m, h] → [m, v]."""
        return self.decoder(self.head.transform(hidden_mh))  # type: ignore[no-any-return]


class Ours:
    """The native model."""

    name = "the native model"
    packs = True

    def __init__(
        self, model: MaskedLM, has_head: bool, extra_tensors: Mapping[str, Tensor] | None = None, mean: bool = False
    ):
        self.model, self.has_head, self.extra_tensors, self.mean = model, has_head, extra_tensors or {}, mean
        self.layers: tuple[nn.Module, str] = (model.encoder, "layers")
        compute_in_float32(model)

    def hidden(self, sequences: Sequence[list[int]]) -> list[Tensor]:
        """See `Computes`."""
        return self.model.encoder(pack(sequences))  # type: ignore[no-any-return]

    def head(self) -> nn.Module | None:
        """See `Computes`."""
        return TiedHead(self.model) if self.has_head else None

    def others(self, wanted: Sequence[Head], sequences: Sequence[list[int]]) -> dict[str, Tensor]:
        """See `Computes`."""
        hidden = torch.split(self.hidden(sequences)[-1], [len(sequence) for sequence in sequences])
        return by_formula(wanted, hidden, self.model.config, self.extra_tensors, self.mean)


class Product(Linear):
    """`nn.Linear` for inputs of any rank, by the product that the native model uses; on an AMD EPYC, transformers' takes twice as long."""

    def forward(self, x: Tensor) -> Tensor:
        """Map […, h] → […, outputs]."""
        return super().forward(x.flatten(0, -2)).view(*x.shape[:-1], -1)


class HuggingFace:
    """transformers' own class for a folder, loaded with its own reader, on right-padded batches.

    Everything about it is transformers' (names, order, norms, attention, padding) but for the kernel that multiplies two matrices.
    """

    name = "transformers"
    packs = False

    def __init__(self, folder: Path, config: EncoderConfig, has_head: bool, dtype: torch.dtype = torch.float32):
        raw = read_json(folder / "config.json")
        self.architecture = hf_config.of(raw, folder)
        self.stated = hf_config.known(config, raw, folder)
        self.pooling = {name: raw[name] for name in ("classifier_pooling",) if name in raw}
        self.weights = scratch()  # with nothing of the folder but its weights
        for file in folder.glob("*.safetensors*"):
            (self.weights / file.name).symlink_to(file.resolve())
        self.folder, self.has_head, self.dtype = folder, has_head, dtype
        self.model, _ = self._load(self.architecture.masked_lm if has_head else self.architecture.base)
        base = self.model.base_model
        self.layers: tuple[nn.Module, str] = (base, "layers") if hasattr(base, "layers") else (base.encoder, "layer")

    def _load(self, name: str, labels: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Load a class of transformers with the folder's weights; the model, and what its loading reported."""
        import transformers
        from huggingface_hub.errors import StrictDataclassError

        verbosity = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()  # it would report every tensor of a classification head
        labelled = {} if labels is None else {"num_labels": labels}
        try:
            loaded, info = getattr(transformers, name).from_pretrained(
                self.weights,
                config=transformers.AutoConfig.for_model(**self.stated, **self.pooling, **labelled),
                local_files_only=True,
                use_safetensors=True,
                torch_dtype=self.dtype,
                output_loading_info=True,
            )
        except (StrictDataclassError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"transformers makes no {name} of it ({kind(error)})"
            raise CheckpointError(problem, file=self.folder / "config.json", remedy="Get the folder again.") from None
        finally:
            transformers.utils.logging.set_verbosity(verbosity)
        for module in loaded.modules():
            if type(module) is nn.Linear:
                module.__class__ = Product
        compute_in_float32(loaded)
        return loaded.eval(), info

    def hidden(self, sequences: Sequence[list[int]]) -> list[Tensor]:
        """See `Computes`."""
        longest, padding = max(len(s) for s in sequences), self.model.config.pad_token_id
        input_ids_bl = torch.tensor([s + [padding] * (longest - len(s)) for s in sequences])
        lengths_b = torch.tensor([len(s) for s in sequences])
        real_bl = torch.arange(longest) < lengths_b[:, None]
        out = self.model.base_model(input_ids_bl, attention_mask=real_bl.long(), output_hidden_states=True)
        return [state_blh[real_bl] for state_blh in (*out.hidden_states[:-1], out.last_hidden_state)]

    def head(self) -> nn.Module | None:
        """See `Computes`."""
        if not self.has_head:
            return None
        if hasattr(self.model, "lm_head"):
            return self.model.lm_head  # type: ignore[no-any-return]
        return self.model.cls if hasattr(self.model, "cls") else nn.Sequential(self.model.head, self.model.decoder)

    def others(self, wanted: Sequence[Head], sequences: Sequence[list[int]]) -> dict[str, Tensor]:
        """See `Computes`."""
        return by_transformers(wanted, sequences, self.architecture, self._load, self.folder)


def compute_in_float32(model: nn.Module) -> None:
    """Let each module that is stored in a narrower type widen its numbers just before it runs and drop them after.

    That is exact, and of a model of any size only the module that runs is in memory in float32; of embeddings, only the rows looked up.
    Matrices are widened into memory that is used again, because fresh memory costs more than the widening.
    """

    stored: dict[nn.Module, dict[str, nn.Parameter | None]] = {}
    memory = [torch.empty(0)]

    def widened(value: Tensor) -> Tensor:
        if value.ndim < 2:
            return value.float()
        if memory[0].numel() < value.numel():
            memory[0] = torch.empty(value.numel())
        return memory[0][: value.numel()].view(value.shape).copy_(value)

    def widen(module: nn.Module, _: object) -> None:
        stored[module] = dict(module._parameters)
        for name, value in stored[module].items():
            module._parameters[name] = None if value is None else nn.Parameter(widened(value), requires_grad=False)

    def narrow(module: nn.Module, _: object, __: object) -> None:
        module._parameters.update(stored.pop(module))

    for module in model.modules():
        if any(value is not None and value.dtype != torch.float32 for value in module._parameters.values()):
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(lambda _, __, rows: rows.float())
            else:
                module.register_forward_pre_hook(widen)
                module.register_forward_hook(narrow)
