"""Make criterion.npz with the real fairseq: .venv-fairseq/bin/python make_criterion.py FOLDER DICT OUT (docs/fairseq.md).

FOLDER holds `checkpoint_best.pt` and `logits.npz` of ../convert, DICT is the `dict.txt` beside them. fairseq reads its checkpoints with
pickle: set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1.
"""

import sys
from types import SimpleNamespace

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.criterions.masked_lm import MaskedLmConfig, MaskedLmLoss
from fairseq.data import Dictionary
from fairseq.models.roberta import RobertaModel

folder, dictionary_file, out = sys.argv[1:]
dictionary = Dictionary.load(dictionary_file)
dictionary.add_symbol("<mask>")
task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary, dictionary=dictionary)
state = checkpoint_utils.load_checkpoint_to_cpu(f"{folder}/checkpoint_best.pt")
model = RobertaModel.build_model(state["cfg"]["model"], task)
model.load_state_dict(state["model"], strict=True)
model.eval()

# Predicted are the masked tokens of the batch, and 15% of the others, half of which are shown as another piece.
tokens = torch.from_numpy(np.load(f"{folder}/logits.npz")["tokens"]).long()
seen, targets = tokens.clone(), torch.full_like(tokens, dictionary.pad())
rng = np.random.default_rng(0)
for row in range(len(tokens)):
    for at in range(1, int(tokens[row].ne(dictionary.pad()).sum()) - 1):
        masked = bool(tokens[row, at] == dictionary.index("<mask>"))
        if masked or rng.random() < 0.15:
            targets[row, at] = int(rng.integers(4, 400)) if masked else tokens[row, at]
            if not masked and rng.random() < 0.5:
                seen[row, at] = int(rng.integers(4, 400))

lengths = seen.ne(dictionary.pad()).sum(1)
inputs = {"src_tokens": seen, "src_lengths": lengths}
sample = {"net_input": inputs, "target": targets, "nsentences": len(seen), "ntokens": int(lengths.sum())}
loss, sample_size, _ = MaskedLmLoss(MaskedLmConfig(tpu=False), task)(model, sample)
(loss / sample_size).backward()  # fairseq's trainer divides by the sample size
gradients = {f"grad.{name}": p.grad.numpy() for name, p in model.named_parameters()}
found = {"tokens": seen.numpy(), "targets": targets.numpy(), "loss": loss.item(), "sample_size": int(sample_size)}
np.savez_compressed(out, **found, **gradients)
