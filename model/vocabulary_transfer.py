"""Start a model with a new vocabulary from one with an old.

Rows of pieces that both vocabularies have are copied; every other new row is a mix of old rows, and the head's bias is mixed alike (the
decoder is tied to the embeddings). Two mixes:

- `mean`: the mean of the old pieces that the new one is written with in the old vocabulary.
- `focus`: FOCUS (Dobler and de Melo 2023, arXiv 2305.14481): a sparse mix of shared pieces that occur in similar contexts of the new
  corpus. FOCUS takes fastText vectors for "similar"; here they are factors of the pieces' positive pointwise mutual
  information (Levy and Goldberg 2014, "Neural word embedding as implicit matrix factorization"), which need no further package.

Shape suffixes: v new vocabulary, o old vocabulary, s shared pieces, d size of the context vectors, h hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from biomlm.model.encoder import MaskedLM

WINDOW = 5  # tokens on each side that count as context
DIMENSIONS = 128  # of the context vectors
MOST_TOKENS = 10_000_000  # of the corpus, enough for context vectors; their pairs take 0.4 GB
BLOCK = 512  # rows of the similarity matrix computed at a time


@dataclass(frozen=True)
class Overlap:
    """How the new vocabulary stands to the old one.

    Args:
        pieces: For each new id the old ids that it is written with; one id for a shared piece, none where nothing fits.
        shared: Whether the new piece is in the old vocabulary as it is, [v].
    """

    pieces: Sequence[Sequence[int]]
    shared: npt.NDArray[np.bool_]


def transfer(model: MaskedLM, weights_vo: Tensor, pad_token_id: int, pad_vocab_to: int = 1) -> MaskedLM:
    """Return the same model over the new vocabulary.

    Args:
        model: Over the old vocabulary.
        weights_vo: From `mean_weights` or `focus_weights`, sparse; rows without an entry keep random initial values.
        pad_token_id: The new vocabulary's padding.
        pad_vocab_to: Round the new rows up to a multiple of this.
    """
    old_oh, old_bias_o = model.encoder.word_embeddings.weight.detach(), model.head.bias.detach()
    v = len(weights_vo)
    config = replace(model.config, vocab_size=-(-v // pad_vocab_to) * pad_vocab_to, pad_token_id=pad_token_id)
    with torch.no_grad():
        new = MaskedLM(config)
        kept = {n: p for n, p in model.state_dict().items() if n not in ("encoder.word_embeddings.weight", "head.bias")}
        new.load_state_dict(kept, strict=False)
        mixed_v = torch.sparse.sum(weights_vo, 1).to_dense() > 0
        new.encoder.word_embeddings.weight[:v][mixed_v] = torch.sparse.mm(weights_vo, old_oh)[mixed_v]
        new.head.bias[:v] = torch.sparse.mm(weights_vo, old_bias_o[:, None])[:, 0]
        new.mask_padding_vocab(v)
    return new


def mean_weights(overlap: Overlap, old_size: int) -> Tensor:
    """Compose each new row as the mean of its old pieces: sparse [v, o]."""
    counts = np.array([len(ids) for ids in overlap.pieces])
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = np.array([i for ids in overlap.pieces for i in ids], dtype=np.int64)
    values = np.repeat(1 / np.maximum(counts, 1), counts)
    return _sparse(rows, columns, values, (len(counts), old_size))


def focus_weights(overlap: Overlap, old_size: int, tokens: npt.NDArray[np.integer]) -> Tensor:
    """Copy shared rows, and compose the others as sparse mixes of shared rows in similar contexts: sparse [v, o].

    Args:
        overlap: Of the two vocabularies.
        old_size: Ids of the old vocabulary.
        tokens: Ids of the new corpus in the new vocabulary, end to end; pieces that do not occur in it are mixed as by `mean_weights`.
    """
    vectors_vd = context_vectors(tokens, len(overlap.pieces))
    occurring = (vectors_vd.norm(dim=1) > 0).numpy()
    anchors = np.flatnonzero(overlap.shared & occurring)
    unshared = np.flatnonzero(~overlap.shared & occurring)
    unit_vd = torch.nn.functional.normalize(vectors_vd, dim=1)
    to_old = np.array([ids[0] if shared else -1 for ids, shared in zip(overlap.pieces, overlap.shared, strict=True)])
    rest = mean_weights(overlap, old_size).coalesce()
    keep = ~np.isin(rest.indices()[0].numpy(), unshared)
    rows, columns, values = (
        [rest.indices()[0].numpy()[keep]],
        [rest.indices()[1].numpy()[keep]],
        [rest.values().numpy()[keep]],
    )
    for start in range(0, len(unshared) if len(anchors) else 0, BLOCK):
        block = unshared[start : start + BLOCK]
        mix_bs = sparsemax(unit_vd[block] @ unit_vd[anchors].T)
        row, anchor = (index.numpy() for index in mix_bs.nonzero(as_tuple=True))
        rows.append(block[row])
        columns.append(to_old[anchors[anchor]])
        values.append(mix_bs[row, anchor].numpy())
    shape = (len(overlap.pieces), old_size)
    return _sparse(np.concatenate(rows), np.concatenate(columns), np.concatenate(values), shape)


def context_vectors(tokens: npt.NDArray[np.integer], vocab_size: int) -> Tensor:
    """Compute factors [v, d] of the positive pointwise mutual information between pieces and those around them; 0 for absent ones."""
    ids = tokens.astype(np.int64)
    neighbours = [(ids[:-k], ids[k:]) for k in range(1, min(WINDOW + 1, len(ids)))]
    pairs = np.concatenate([np.minimum(a, b) * vocab_size + np.maximum(a, b) for a, b in neighbours])
    keys, counts = np.unique(pairs, return_counts=True)
    low, high = keys // vocab_size, keys % vocab_size
    apart = (
        low < high
    )  # a pair of two pieces stands on both sides of the diagonal, a piece beside itself counts twice on it
    rows, columns = np.concatenate([low, high[apart]]), np.concatenate([high, low[apart]])
    together = np.concatenate([np.where(apart, counts, 2 * counts), counts[apart]]).astype(np.float64)
    alone = np.bincount(rows, weights=together, minlength=vocab_size)
    information = np.log(together * together.sum() / (alone[rows] * alone[columns]))
    positive = information > 0
    shape = (vocab_size, vocab_size)
    matrix_vv = _sparse(rows[positive], columns[positive], information[positive], shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the random projection in the truncated SVD
        u_vd, s_d, _ = torch.svd_lowrank(matrix_vv, q=min(DIMENSIONS, vocab_size), niter=3)
    vectors_vd: Tensor = u_vd * s_d.sqrt()
    return vectors_vd * torch.from_numpy(alone > 0)[:, None]


def sparsemax(scores_bs: Tensor) -> Tensor:
    """Project each row onto the probability simplex (Martins and Astudillo 2016, arXiv 1602.02068): like softmax, mostly zeros."""
    ordered = scores_bs.sort(dim=1, descending=True).values
    ranks = torch.arange(1, scores_bs.shape[1] + 1)
    running = ordered.cumsum(1)
    support = (1 + ranks * ordered > running).sum(1, keepdim=True)
    threshold = (running.gather(1, support - 1) - 1) / support
    return (scores_bs - threshold).clamp(min=0)


def _sparse(
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    values: npt.NDArray[np.floating],
    shape: tuple[int, int],
) -> Tensor:
    indices = torch.from_numpy(np.stack([rows, columns]))
    return torch.sparse_coo_tensor(indices, torch.from_numpy(values).float(), shape, check_invariants=False).coalesce()
