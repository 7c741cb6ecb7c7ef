"""A model is converted shard by shard: of a sparse stand-in, only a small part is ever in memory that is not the mapped file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WIDTH, LAYERS = 1024, 16

# In a process of its own: what it has when everything is imported, the most it had while it converted, and the files written.
MEASURED = """
import json, sys, threading, time
from pathlib import Path
from transformers import AutoTokenizer, MegatronBertForMaskedLM
from biomlm.convert.formats import hf_weights
from biomlm.convert.commands.convert import run
from biomlm.convert.config import ConvertConfig

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    while True:
        peak[0] = max(peak[0], own())
        time.sleep(0.002)

hf_weights.SHARD = int(sys.argv[3])
before = own()
peak = [before]
threading.Thread(target=watch, daemon=True).start()
run(ConvertConfig(sys.argv[1], sys.argv[2], "hf"))
Path(sys.argv[2], "measured.json").write_text(json.dumps(peak[0] - before))
"""


def sparse(folder: Path) -> int:
    """A MegatronBERT in float16 whose file is one hole: it has its size, and takes no disk; the size."""
    layer = {
        **{f"attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")},
        "attention.output.dense": (WIDTH, WIDTH),
        "intermediate.dense": (4 * WIDTH, WIDTH),
        "output.dense": (WIDTH, 4 * WIDTH),
    }
    shapes = {"embeddings.word_embeddings.weight": (512, WIDTH), "embeddings.position_embeddings.weight": (64, WIDTH)}
    shapes["embeddings.token_type_embeddings.weight"] = (2, WIDTH)
    for i in range(LAYERS):
        for name, shape in layer.items():
            shapes |= {f"encoder.layer.{i}.{name}.weight": shape, f"encoder.layer.{i}.{name}.bias": shape[:1]}  # type: ignore[dict-item]
        for name in ("attention.ln", "ln"):
            shapes |= {f"encoder.layer.{i}.{name}.{leaf}": (WIDTH,) for leaf in ("weight", "bias")}  # type: ignore[misc]
    shapes |= {f"encoder.ln.{leaf}": (WIDTH,) for leaf in ("weight", "bias")}  # type: ignore[misc]
    header, place = {}, 0
    for name, shape in shapes.items():
        end = place + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[f"bert.{name}"] = {"dtype": "F16", "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)
    sizes = {"vocab_size": 512, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 16}
    sizes |= {"intermediate_size": 4 * WIDTH, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps({"model_type": "megatron-bert", **sizes}))
    return place


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its own memory")
def test_a_sharded_model_is_never_whole_in_memory(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    size = sparse(source)
    subprocess.run([sys.executable, "-c", MEASURED, str(source), str(target), str(size // 8)], check=True, timeout=600)
    assert len(list(target.glob("model-*-of-*.safetensors"))) >= 8
    own = json.loads((target / "measured.json").read_text())
    assert own < 0.6 * size  # 0.45 when this was written; reading and writing alone 0.01
