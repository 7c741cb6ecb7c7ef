"""A pretraining step of ours against Hugging Face's on the same documents, in one run: real tokens a second and their ratio.

    python benchmarks/pretrain.py SHARDS [--layers 4 --hidden 256 --seconds 20]

Hugging Face's side is what `run_mlm.py --line_by_line` does: RobertaForMaskedLM on right-padded batches of the same sequences, logits
at every position, dynamic masks. Both sides use the same precision, optimiser, threads and real tokens a step; they take turns,
step by step, so that a change of the machine's load meets both.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from biolm.model.config import ModelConfig
from biolm.model.encoder import MaskedLM
from biolm.model.packed import pad
from biolm.pretrain.batches import Batch, Batches
from biolm.pretrain.config import BatchConfig, MlmConfig
from biolm.pretrain.device import choose
from biolm.pretrain.objective import MlmObjective, Totals
from biolm.tokenizer.shards import ShardReader


def hugging_face(model: MaskedLM) -> torch.nn.Module:
    """Their model of the same shape."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    c = model.config
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.hidden_size,
            num_hidden_layers=c.num_hidden_layers,
            num_attention_heads=c.num_attention_heads,
            intermediate_size=c.intermediate_size,
            max_position_embeddings=c.max_positions + 2,
            type_vocab_size=1,
            hidden_dropout_prob=c.hidden_dropout,
            attention_probs_dropout_prob=c.attention_dropout,
        )
    )


def theirs(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Loss on the padded batch."""
    labels_t = torch.full_like(batch.packed.input_ids_t, -100)
    labels_t[batch.positions_m] = batch.labels_m
    lengths = batch.packed.lengths
    mask_bl = pad(torch.ones_like(labels_t), lengths)
    ids_bl = pad(batch.packed.input_ids_t, lengths).masked_fill(mask_bl == 0, 1)
    labels_bl = pad(labels_t, lengths).masked_fill(mask_bl == 0, -100)
    loss: Tensor = model(input_ids=ids_bl, attention_mask=mask_bl, labels=labels_bl).loss
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=30)
    args = parser.parse_args()

    reader = ShardReader(args.shards, "train")
    batches = Batches(reader, MlmConfig(), BatchConfig(tokens=args.tokens, max_length=args.max_length), seed=0)
    shape = ModelConfig(
        size="tiny",
        num_hidden_layers=args.layers,
        hidden_size=args.hidden,
        num_attention_heads=args.hidden // 64,
        hidden_dropout=args.dropout,
        attention_dropout=args.dropout,
    )
    ours = MaskedLM(shape.resolve(reader.vocab_size, args.max_length, reader.ids.pad)).train()
    other = hugging_face(ours).train()
    device, objective = choose("auto"), MlmObjective()
    ours, other = ours.to(device.torch), other.to(device.torch)
    losses: dict[str, Callable[[Batch], Tensor]] = {
        "biolm": lambda batch: objective(ours, batch, Totals.of([batch]))["loss"],
        "transformers": lambda batch: theirs(other, batch),
    }
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        for name, model in (("biolm", ours), ("transformers", other))
    }
    seconds, tokens = dict.fromkeys(losses, 0.0), dict.fromkeys(losses, 0)
    step, warm, end = 0, 3, time.monotonic() + args.seconds
    while time.monotonic() < end or step < warm + 3:
        batch = batches.step(step)[0].to(device.torch)
        for name, loss in losses.items():
            start = time.perf_counter()
            with device.autocast():
                value = loss(batch)
            value.backward()
            optimizers[name].step()
            optimizers[name].zero_grad(set_to_none=True)
            if device.torch.type == "cuda":
                torch.cuda.synchronize()
            if step >= warm:
                seconds[name] += time.perf_counter() - start
                tokens[name] += len(batch.packed.input_ids_t)
        step += 1
    speed = {name: tokens[name] / seconds[name] for name in losses}
    padding = 1 - tokens["biolm"] / sum(
        max(b.packed.lengths) * len(b.packed.lengths) for i in range(warm, step) for b in batches.step(i)
    )
    print(
        f"{args.layers} × {args.hidden}, vocabulary {reader.vocab_size}, {device.torch} {device.precision}, dropout {args.dropout}"
    )
    print(f"{torch.get_num_threads()} threads")
    print(f"padding on transformers' side: {padding:.1%} of its tokens; {step - warm} steps each")
    for name, value in speed.items():
        print(f"{name:14}{value:10,.0f} real tokens/s")
    print(f"ratio         {speed['biolm'] / speed['transformers']:10.2f}")


if __name__ == "__main__":
    main()
