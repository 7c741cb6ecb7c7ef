"""Against fairseq itself: what it computed for a batch, and the files that it wrote."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from biomlm.convert.load import load_model
from biomlm.convert.safe_load import torch_file
from biomlm.convert.safe_load.unpickle import entries
from biomlm.core.files import sha256
from biomlm.model.packed import unpad
from biomlm.tokenizer.formats import folder as tokenizer_folder

Convert = Callable[..., Path]
DATA = Path(__file__).parents[2] / "data" / "convert"
UNUSED = ("in_proj_", "out_proj_", "fc1_", "fc2_")
VERSION = "encoder.sentence_encoder.version"


def test_native_hidden_states_and_logits_equal_fairseqs(golden: Path) -> None:
    expected = np.load(golden.parent / "logits.npz")
    loaded = load_model(golden)
    assert loaded.kind == "fairseq"
    real = ~torch.from_numpy(expected["padding_mask"])
    with torch.inference_mode():
        hidden = loaded.model.encoder(unpad(torch.from_numpy(expected["tokens"]), real))
        logits = loaded.model.logits(hidden[-1])
    for i, state in enumerate(hidden):
        torch.testing.assert_close(state, torch.from_numpy(expected[f"hidden_{i}"])[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, torch.from_numpy(expected["logits"])[real], atol=1e-5, rtol=0)


def test_hugging_face_folder_computes_what_fairseq_did(golden: Path, convert: Convert) -> None:
    expected = np.load(golden.parent / "logits.npz")
    folder = convert(golden, "hf")
    real = ~torch.from_numpy(expected["padding_mask"])
    model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(expected["tokens"]), attention_mask=real.long()).logits
    wanted = torch.from_numpy(expected["logits"])[real]
    torch.testing.assert_close(logits[real][:, : wanted.shape[1]], wanted, atol=1e-5, rtol=0)
    assert logits[real][:, wanted.shape[1] :].max() < -1000, "pieces outside the dictionary must never be predicted"


def under_todays_names(written: dict[str, Tensor]) -> dict[str, Tensor]:
    """A RoBERTa is written under 0.10's names, which 0.12 renames itself."""
    return {
        name.replace("decoder.", "encoder.", 1).replace("emb_layer_norm", "layernorm_embedding"): tensor
        for name, tensor in written.items()
    }


def test_fairseq_to_hf_to_fairseq_is_bit_equal(golden: Path, convert: Convert) -> None:
    back = convert(convert(golden, "hf"), "fairseq", "back")
    before: dict[str, Tensor] = torch_file.load(golden / "checkpoint_best.pt")["model"]
    written: dict[str, Tensor] = torch_file.load(back / "model.pt")["model"]
    after = under_todays_names(written)
    kept = {name for name in before if not name.rpartition(".")[2].startswith(UNUSED)} - {VERSION}
    assert after.keys() == kept
    assert not after.keys() & {
        name for name in written if "sentence_encoder" in name
    }  # 0.10's, which all versions read
    assert all(torch.equal(before[name], after[name]) for name in kept)
    for name in ("dict.txt", "encoder.json", "vocab.bpe"):
        assert (back / name).read_bytes() == (golden / name).read_bytes()


def test_to_the_format_it_has_is_a_clean_copy(one_golden: Path, convert: Convert) -> None:
    """Without the optimiser's state, which is two thirds of fairseq's file."""
    copy = convert(one_golden, "fairseq", "copy")
    before, after = torch_file.load(one_golden / "checkpoint_best.pt"), torch_file.load(copy / "model.pt")
    assert after["last_optimizer_state"] is None
    todays = under_todays_names(after["model"])
    assert all(torch.equal(before["model"][name], value) for name, value in todays.items())
    assert (copy / "model.pt").stat().st_size < (one_golden / "checkpoint_best.pt").stat().st_size / 2
    once = convert(one_golden, "hf", "once")
    twice = convert(once, "hf", "twice")
    assert sha256(once / "model.safetensors") == sha256(twice / "model.safetensors")


def test_ids_follow_the_dictionary_not_the_bpe(golden: Path, convert: Convert) -> None:
    """fairseq orders ids by frequency: the id of a piece is four plus its line in dict.txt, counted here by hand."""
    folder = convert(golden, "hf")
    lines = [line.split()[0] for line in (golden / "dict.txt").read_text().splitlines()]
    encoder = json.loads((golden / "encoder.json").read_text())
    hugging_face = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    moved = 0
    for piece, bpe_id in encoder.items():
        if str(bpe_id) in lines:
            assert hugging_face.convert_tokens_to_ids(piece) == 4 + lines.index(str(bpe_id))
            moved += bpe_id != 4 + lines.index(str(bpe_id))
    assert moved > 400
    assert hugging_face.mask_token_id == 504
    assert hugging_face.model_max_length == 64


def test_ids_of_sentences_equal_fairseqs(golden: Path, convert: Convert) -> None:
    """The real fairseq's GPT2BPE and Dictionary, on plain, Unicode and empty texts."""
    expected = json.loads((DATA / "ids.json").read_text(encoding="utf-8"))
    texts, ids = [entry["text"] for entry in expected], [entry["ids"] for entry in expected]
    assert len(texts) == 29
    source = load_model(golden).tokenizer_dir
    assert source is not None
    assert tokenizer_folder.load(source).encode_batch(texts) == [sequence[1:-1] for sequence in ids]
    hugging_face = AutoTokenizer.from_pretrained(convert(golden, "hf"), local_files_only=True)
    unknown = [[3 if i > 504 else i for i in sequence] for sequence in hugging_face(texts, verbose=False)["input_ids"]]
    assert unknown == ids


def test_a_checkpoint_without_its_bpe_takes_it_from_elsewhere(
    one_golden: Path, tmp_path: Path, convert: Convert
) -> None:
    """As `roberta.base.tar.gz` is published: dict.txt lies beside, GPT-2's BPE does not."""
    bpe = tmp_path / "bpe"
    bpe.mkdir()
    for name in ("encoder.json", "vocab.bpe"):
        (one_golden / name).rename(bpe / name)
    without = convert(one_golden, "hf", "without")
    assert not (without / "tokenizer.json").exists()
    assert load_model(one_golden).tokenizer_dir is None
    given = convert(one_golden, "hf", "given", tokenizer=str(bpe))
    assert AutoTokenizer.from_pretrained(given, local_files_only=True).mask_token_id == 504
    record = json.loads((given / "conversion.json").read_text())
    assert record["tokenizer_agreement"]["equal"] == record["tokenizer_agreement"]["sentences"] > 1000


def test_the_tokenizer_of_a_checkpoint_is_loaded_with_it(golden: Path) -> None:
    loaded = load_model(golden)
    assert loaded.tokenizer_dir is not None
    tokenizer = tokenizer_folder.load(loaded.tokenizer_dir)
    assert tokenizer.vocab_size == loaded.config.vocab_size == 505
    assert tokenizer.decode(tokenizer.encode("The patient")) == "The patient"


def test_omegaconf_era_and_classification_head(omegaconf_golden: Path, convert: Convert) -> None:
    """Settings in omegaconf's classes are read; transformers' classifier computes what fairseq's head did."""
    folder = omegaconf_golden
    expected = np.load(folder.parent / "logits.npz")
    real = ~torch.from_numpy(expected["padding_mask"])
    tokens = torch.from_numpy(expected["tokens"])
    loaded = load_model(folder)
    assert loaded.config.num_attention_heads == 2
    assert loaded.facts["updates"] == 7
    with torch.inference_mode():
        hidden = loaded.model.encoder(unpad(tokens, real))
        for i, state in enumerate(hidden):
            torch.testing.assert_close(state, torch.from_numpy(expected[f"hidden_{i}"])[real], atol=1e-5, rtol=0)
        target = convert(folder, "hf")
        classifier = AutoModelForSequenceClassification.from_pretrained(target, local_files_only=True).eval()
        scores = classifier(tokens, attention_mask=real.long()).logits
    assert scores.shape == (3, 3)
    torch.testing.assert_close(scores, torch.from_numpy(expected["classes"]), atol=1e-5, rtol=0)


def test_prenorm_is_megatrons_shape(prenorm_golden: Path, convert: Convert) -> None:
    """fairseq's `roberta_prenorm`: native, transformers' MegatronBert and back compute what fairseq did."""
    expected = np.load(prenorm_golden.parent / "logits.npz")
    real, tokens = ~torch.from_numpy(expected["padding_mask"]), torch.from_numpy(expected["tokens"])
    loaded = load_model(prenorm_golden)
    assert loaded.config.shape == "megatron-bert"
    target = convert(prenorm_golden, "hf")
    model = AutoModelForMaskedLM.from_pretrained(target, local_files_only=True).eval()
    wanted = torch.from_numpy(expected["logits"])[real]
    with torch.inference_mode():
        hidden = loaded.model.encoder(unpad(tokens, real))
        logits = loaded.model.logits(hidden[-1])
        theirs = model(tokens, attention_mask=real.long()).logits[real][:, : wanted.shape[1]]
    for i, state in enumerate(hidden[:-1]):  # fairseq lists the last one before its final norm
        torch.testing.assert_close(state, torch.from_numpy(expected[f"hidden_{i}"])[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs, wanted, atol=1e-5, rtol=0)
    assert json.loads((target / "conversion.json").read_text())["left_out"] == ["front.position_embeddings.weight"]
    back = torch_file.load(convert(convert(prenorm_golden, "native"), "fairseq", "back") / "model.pt")["model"]
    before = torch_file.load(prenorm_golden / "checkpoint_best.pt")["model"]
    assert back.keys() == before.keys(), "without its version, fairseq leaves the final norm out"
    assert all(torch.equal(before[name], value) for name, value in back.items())


@pytest.mark.parametrize("name", ["prelayernorm", "gelu_accurate"])
def test_what_fairseqs_options_make(name: str, tmp_path: Path, convert: Convert) -> None:
    """`--encoder-normalize-before` with normalised embeddings is RobertaPreLayerNorm; `gelu_accurate` is `gelu_new` but for the head, which
    Hugging Face's RoBERTa leaves exact. Native computes what fairseq did, and the way back is bit-equal.
    """
    source = shutil.copytree(DATA / name, tmp_path / name)
    expected = np.load(source / "logits.npz")
    real = ~torch.from_numpy(expected["padding_mask"])
    loaded = load_model(source)
    with torch.inference_mode():
        hidden = loaded.model.encoder(unpad(torch.from_numpy(expected["tokens"]), real))
        logits = loaded.model.logits(hidden[-1])
    for i, state in enumerate(hidden[: -1 if loaded.config.pre_norm else None]):
        torch.testing.assert_close(state, torch.from_numpy(expected[f"hidden_{i}"])[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, torch.from_numpy(expected["logits"])[real], atol=1e-5, rtol=0)
    folder = convert(source, "hf", "hf")
    stated = json.loads((folder / "config.json").read_text())
    changed = json.loads((folder / "conversion.json").read_text())["left_out"]
    if name == "prelayernorm":
        assert (stated["architectures"], changed) == (["RobertaPreLayerNormForMaskedLM"], [])
    else:
        assert (stated["hidden_act"], changed) == ("gelu_new", ["the head's activation, gelu_tanh: gelu instead"])
    before, after = (
        torch_file.load(source / "checkpoint_best.pt"),
        torch_file.load(convert(folder, "fairseq", "back") / "model.pt"),
    )
    for option in ("layernorm_embedding", "encoder_normalize_before", "activation_fn"):
        assert entries(after["args"])[option] == entries(before["args"])[option]
    kept = {tensor for tensor in before["model"] if not tensor.rpartition(".")[2].startswith(UNUSED)}
    written = after["model"]
    if name == "gelu_accurate":
        written, kept = under_todays_names(written), kept - {VERSION}
    assert all(torch.equal(before["model"][tensor], written[tensor]) for tensor in kept)


@pytest.mark.parametrize("era", ["decoder", "emb_layer_norm", "in_proj", "module", "args", "amp"])
def test_names_of_earlier_versions_and_wrappers(one_golden: Path, era: str) -> None:
    """The same weights under the names that 0.6 to 0.10 and wrappers of distributed training gave them."""
    state = torch.load(one_golden / "checkpoint_best.pt", weights_only=False)
    before = load_model(one_golden).model.state_dict()
    state["model"] = _in_the_style_of(era, state["model"])
    if era == "amp":  # apex's `amp.state_dict()`, which training scripts saved beside the model
        state["amp"] = {"loss_scaler0": {"loss_scale": 65_536.0, "unskipped": 12}}
    if era == "args":
        state["args"], state["cfg"] = state["cfg"]["model"], None
    torch.save(state, one_golden / "checkpoint_best.pt", _use_new_zipfile_serialization=era != "in_proj")
    after = load_model(one_golden).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def _in_the_style_of(era: str, model: dict[str, Tensor]) -> dict[str, Tensor]:
    if era == "decoder":
        return {f"decoder.{name.removeprefix('encoder.')}": value for name, value in model.items()}
    if era == "emb_layer_norm":
        return {name.replace("layernorm_embedding", "emb_layer_norm"): value for name, value in model.items()}
    if era == "module":
        return {f"module.{name}": value for name, value in model.items()}
    if era == "in_proj":
        for leaf in ("weight", "bias"):
            for layer in range(3):
                stem = f"encoder.sentence_encoder.layers.{layer}.self_attn."
                model[f"{stem}in_proj_{leaf}"] = torch.cat([model.pop(f"{stem}{x}_proj.{leaf}") for x in "qkv"])
    return model
