"""The tokenizer: every word of the world is one token, anything else is spelled letter by letter.

A byte-pair model without merges, which looks whole words up first (`ignore_merges`), with the space marker `▁` in front of words.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

UNKNOWN, BEGIN, END = 0, 1, 2
SPECIAL = ["<unk>", "<s>", "</s>"]
LETTERS = ["▁", *map(chr, range(ord("!"), ord("~") + 1))]
PIECES = "▁?[A-Za-z]+|▁?[0-9]+|▁?[^A-Za-z0-9▁]|▁"


def build_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer whose whole words are those of the texts, most frequent first."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    seen = Counter(piece for text in texts for piece, _ in pieces.pre_tokenize_str(normalizer.normalize_str(text)))
    words = sorted((word for word in seen if len(word) > 1), key=lambda word: (-seen[word], word))
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *LETTERS, *words])}

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, ignore_merges=True))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pieces
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BEGIN)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, longest: int) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
