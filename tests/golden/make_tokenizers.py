#!/usr/bin/env python3
"""Makes the golden vectors in tests/golden/tokenizers with the reference library.

Needs tokenizers >= 0.23 and transformers >= 5 (pip install tokenizers transformers). Trains a small
vocabulary for every family with the normaliser, pre-tokeniser, decoder and post-processor that its
published models have, and records what transformers makes of a corpus of nasty texts. Further files
hold single components, and the code points that patterns match.

    make_tokenizers.py            writes everything again
    make_tokenizers.py --unicode  only properties.json (after an upgrade of the reference)
"""
import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = HERE / "tokenizers"

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
          r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# The published chat tokens of the families, shortened to a few each.
SPECIAL = {
    "gpt2": ["<|endoftext|>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
               "<|eot_id|>"],
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}


def nasty_corpus():
    """Texts as bytes: not all of them are UTF-8."""
    texts = [
        "", " ", "  ", "\n", "\r\n", "\t", "a", " a", "a ", "  a  b   c    ", "Hello, world!",
        "The quick brown fox jumps over the lazy dog.",
        "def f(x):\n    return x ** 2  # squared\n\n\nclass A:\n\tpass\r\n\r\n",
        "for (int i = 0; i < n; ++i) {\n        sum += a[i] * b[i];\n    }\n",
        "   leading", "trailing   ", "a\n\n\n\nb", "a \n b\n \n c", "\t\t\tx", "a\r\nb\r\n\r\n  c\rd",
        " " * 100 + "x", "x" + " " * 100, "\n" * 60, " \n" * 30, "x" * 300, "ab" * 200, "=" * 90,
        "I'm you're he's she'll we've they'd it's don't I'M YOU'RE HE'S SHE'LL WE'VE THEY'D",
        "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'Ve 'lL 'D", "can\u2019t \u2018quoted\u2019",
        "it'\u017f he'\u017ft 'K'\u212a \u212a\u017f x'\u017f'\u017f",
        "1 12 123 1234 12345 123456789 3.14159 1,000,000 0x1F 1e-9 12a34",
        "\u0661\u0662\u0663 \u0967\u0968\u0969 \u4e00\u4e8c\u4e09 \u2460\u2461 \u2163 \u00bd\u00b2\u00b3\u00b9"
        " \U0001d7d8\U0001d7d9 x\u00b2 \u2082 \uff11\uff12\uff13",
        "e\u0301 \u00e9 a\u0323\u0307 a\u0307\u0323 \u1e69 s\u0323\u0307 A\u030a \u212b o\u0302\u0301\u0300",
        "\u0344 \u0958 \u2126 \ufb01 \ufb06 \u0f73 q\u0307\u0323 \u1100\u1161\u11a8 \u1112\u1161\u11ab\uae00",
        "\uac00\uac01 \ud55c\uad6d\uc5b4 \u3131\u314f", "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8\u3002",
        "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 \u0393\u03b5\u03b9\u03ac \u03a3\u03c3\u03c2",
        "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u05e9\u05dc\u05d5\u05dd \u200f\u202babc\u202c",
        "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u1019\u103c\u1014\u103a\u1019\u102c",
        "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea"
        " \U0001f44d\U0001f3fd \u2764\ufe0f \u0031\ufe0f\u20e3",
        "a\u00a0b\u2003c\u3000d\u202fe\u205ff\u1680g\u180eh\u200bi\ufeffj\u0085k\u2028l\u2029m",
        "\u00a0\u00a0 \u3000\u3000x \u180e \u180ex", "\x00", "a\x00b\x00\x00c", "\x01\x02\x1f\x7f\x80\x9f",
        "\ue000\uf8ff\U000f0000\U0010fffd\uffff\ufffe\ufffd", "\u2581 \u2581\u2581x y\u2581z \u2581", "\u0120 \u010a\u0121",
        "\u1c89\ua7cb \U00010d40\U00010d50 \U0002ebf0\U00031350 \U0001e030 \U00016d40\U0001cc00 \u0897x",
        "\u01c5\u01c8 \u02b0\u02b1 \u16ee \u00aa\u00ba", "#!/usr/bin/env python3", "snake_case CamelCase kebab-case SCREAMING",
        "https://example.org/a?b=c&d=%20e#f", "user@example.com", "a\\b\\\\c \"q\" 'q' `q` $x ${y} @z",
        "<s> </s> <unk> <s></s>", "a<s>b", " <s> ", "x </s>  y", "<s", "< s>", "<S>", "<<s>>", "\u2581<s>\u2581",
        "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> \n", "<|endoftext|", "<|ENDOFTEXT|>", "<|endoftext|><|endoftext|>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
        "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n<think>\nhm </think> <tool_call>",
        "[INST] Hi [/INST] [ INST]", "<0x0A> <0x41> <0xFF> <0xZZ>", "<|user|> x <|assistant|>", "<|pad|>",
        "word<mask>word <mask> word", "lone <ctrl>  here", "xlone lonex lone lone. lone_ \u00e9lone",
        "Mixed \u4e2d\u6587 and English\u6df7\u5408 text\u3002 123\u5e74", "\u2014\u2013\u2026\u201c\u201d\u00ab\u00bb\u00bf\u00a1 \u20ac\u00a3\u00a5 \u00b1\u00d7\u00f7 \u2200\u2203",
        "\u0130stanbul I\u0307 \u0131 \u00df \u1e9e \u01f0 \ufb00", "a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308b",
        "\u0300\u0301 start", "x\u200dy\u200cz", "\u00c5\u0300\u0316 \u1ea4\u0327", "\u0915\u093c \u0ac7\u0ace \u1b7f",
    ]
    out = [text.encode() for text in texts]
    out += [b"\xff", b"\xfe\xff", b"abc\xff\xfedef", b"\xc3", b"\xc3(", b"a\xe2\x82", b"\xe2\x82b", b"\xe2\x28\xa1",
            b"\xf0\x9f\x98", b"\xf0\x9f\x98 x", b"\xf0\x28\x8c\xbc", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf8\x88\x80\x80\x80",
            b"\xed\xa0\x80", b"\xed\xb0\x80x", b"\xf4\x90\x80\x80", b"\x80\x80\x80", b"ok \xe4\xbd\xa0 bad \xe4\xbd ok",
            b"\xf1\x80\x80\xf1\x80", b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"]
    return out


def training_texts():
    prompts = [json.loads(line) for line in open(ROOT / "demo" / "prompts.jsonl", encoding="utf-8")]
    texts = [json.dumps(prompt, ensure_ascii=False) for prompt in prompts]
    texts += [value for prompt in prompts for value in prompt.values() if isinstance(value, str)]
    texts += [text.decode(errors="replace") for text in nasty_corpus()] * 3
    return texts


def compact(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def train(tokenizer, size, alphabet, special=()):
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False,
                                  special_tokens=list(special), max_token_length=16)
    tokenizer.train_from_iterator(training_texts(), trainer)
    return tokenizer


def byte_level(pattern_steps, size=640, normalizer=None):
    """Byte-level BPE; pattern_steps come before the mapping to bytes."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = (pattern_steps[0] if len(pattern_steps) == 1
                               else pre_tokenizers.Sequence(pattern_steps))
    tokenizer.decoder = decoders.ByteLevel()
    return train(tokenizer, size, pre_tokenizers.ByteLevel.alphabet())


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def make_gpt2():
    tokenizer = byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=True, special=True)])
    return tokenizer, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
                       "unk_token": "<|endoftext|>", "add_prefix_space": False}


def make_gpt2_prefix():
    tokenizer = byte_level([pre_tokenizers.ByteLevel(add_prefix_space=True)], 420)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 421), ("<s>", 420), True, True)
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>",
                       "mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False,
                                      "normalized": False, "single_word": False, "special": True}}


def make_llama3():
    tokenizer = byte_level([split(LLAMA3), BYTES])
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL["llama3"]])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                      pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    return tokenizer, {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>",
                       "clean_up_tokenization_spaces": True}


def make_qwen2():
    tokenizer = byte_level([split(QWEN2), BYTES], normalizer=normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL["qwen"]])
    return tokenizer, {"add_prefix_space": False, "add_bos_token": False, "bos_token": None,
                       "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                       "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}


def make_qwen3():
    tokenizer, config = make_qwen2()
    # Recognised in the text, but not special: kept when decoding.
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<tool_call>", "<think>", "</think>")])
    return tokenizer, config


def make_tekken():
    tokenizer = byte_level([split(TEKKEN), BYTES], 480)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1",
                                                             special_tokens=[("<s>", bos)])
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def make_cl100k():
    tokenizer = byte_level([split(CL100K), BYTES], 480)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return tokenizer, {"eos_token": "<|endoftext|>", "add_eos_token": True}


def make_deepseek():
    steps = [split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), split(DEEPSEEK), BYTES]
    tokenizer = byte_level(steps, 480, normalizers.Sequence([]))
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": False}


def make_falcon():
    steps = [pre_tokenizers.Punctuation("contiguous"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
             pre_tokenizers.Digits(individual_digits=False), split("[0-9][0-9][0-9]")]
    tokenizer = byte_level(steps, 420)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    # One of each flag: word boundaries, white space taken along, matched after normalisation.
    tokenizer.add_tokens([AddedToken("lone", single_word=True), AddedToken("<ctrl>", lstrip=True, rstrip=True)])
    return tokenizer, {"eos_token": "<|endoftext|>"}


def sentencepiece(metaspace, size=560):
    """BPE with byte fallback as converted from a SentencePiece model."""
    special = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % byte for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Trained on words, as SentencePiece does; applied to whole texts.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    alphabet = sorted({c for c in "".join(training_texts()) if "!" <= c <= "~"} | {"\u2581", "\u00e9", "\u4e2d"})
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False,
                                  special_tokens=special, limit_alphabet=len(alphabet), max_token_length=12)
    tokenizer.train_from_iterator(training_texts(), trainer)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = []
    data["pre_tokenizer"] = data["normalizer"] = None
    model = data["model"]
    # SentencePiece has runs of spaces in its vocabulary.
    for count in (2, 4, 8):
        model["vocab"]["\u2581" * count] = len(model["vocab"])
        model["merges"].append(["\u2581" * (count // 2)] * 2)
    model.update(unk_token="<unk>", fuse_unk=True, byte_fallback=True, ignore_merges=False)
    tokenizer = Tokenizer.from_str(json.dumps(data))
    strip = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace, split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    if metaspace != "never":
        strip.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(strip)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True,
                       "add_eos_token": False, "clean_up_tokenization_spaces": False, "legacy": False}


def make_llama2_legacy():
    tokenizer, config = sentencepiece(None)
    # The older conversion had these flags, and a normalised form of the token with it.
    data = json.loads(tokenizer.to_str())
    for token in data["added_tokens"]:
        token["normalized"] = True
    return Tokenizer.from_str(json.dumps(data)), config


def make_llama2_metaspace():
    return sentencepiece("first")


def make_mistral():
    tokenizer, config = sentencepiece(None)
    config.update(add_eos_token=True)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("[INST]", "[/INST]")])
    return tokenizer, config


def make_mistral_always():
    tokenizer, config = sentencepiece("always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return tokenizer, config


def make_metaspace_never():
    return sentencepiece("never", 500)


FAMILIES = {name[5:]: function for name, function in list(globals().items()) if name.startswith("make_")}


def save(name, tokenizer, config):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    data = json.loads(tokenizer.to_str())
    if name in ("gpt2", "qwen2", "llama2_legacy", "falcon"):  # the older form of merges
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    if name == "llama3":
        data["model"]["ignore_merges"] = True
    compact(folder / "tokenizer.json", data)
    config = dict(config, tokenizer_class="PreTrainedTokenizerFast")
    compact(folder / "tokenizer_config.json", config)
    return folder


def record(folder):
    """What transformers makes of the corpus and of random ids."""
    reference = PreTrainedTokenizerFast.from_pretrained(folder)
    # What the template puts around any text.
    full, plain = reference.encode("a"), reference.encode("a", add_special_tokens=False)
    start = full.index(plain[0])
    before, after = full[:start], full[start + len(plain):]
    around = [reference.decode(before), reference.decode(after)]
    cases = []
    for raw in nasty_corpus():
        text = raw.decode(errors="replace")
        plain = reference.encode(text, add_special_tokens=False)
        full = reference.encode(text, add_special_tokens=True)
        kept = reference.decode(full, skip_special_tokens=False)
        skipped = reference.decode(full, skip_special_tokens=True)
        reference._tokenizer.encode_special_tokens = True
        as_text = reference._tokenizer.encode(text, add_special_tokens=False).ids
        reference._tokenizer.encode_special_tokens = False
        assert full == before + plain + after
        case = {"ids": plain}
        if kept != around[0] + text + around[1]:
            case["kept"] = kept
        if skipped != text:
            case["skipped"] = skipped
        if as_text != plain:
            case["as_text"] = as_text
        cases.append(case)
    generator = random.Random(7)
    size = len(reference)
    streams = []
    for length in [1, 2, 3, 5, 8, 13] * 5:
        low = 259 if folder.name.startswith(("llama2", "mistral", "metaspace")) and length % 2 else size
        ids = [generator.randrange(min(low, size)) for _ in range(length)]
        streams.append({"ids": ids, "kept": reference.decode(ids, skip_special_tokens=False),
                        "skipped": reference.decode(ids, skip_special_tokens=True)})
    return {"vocabulary": max(reference.get_vocab().values()) + 1, "bos": reference.bos_token_id,
            "eos": reference.eos_token_id, "before": before, "after": after, "around": around, "cases": cases, "streams": streams}


def short_hash(parts):
    """Parts in full would take half a megabyte."""
    return "%08x" % (fnv("".join(part + "\0\n" for part in parts).encode()) & 0xFFFFFFFF)


def state(component):
    return json.loads(component.__getstate__())


def component_texts():
    return [raw.decode(errors="replace") for raw in nasty_corpus() if len(raw) < 200]


def record_pre_tokenizers():
    P = pre_tokenizers
    behaviors = ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")
    steps = [split(r"\s", b, i) for b in behaviors for i in (False, True)]
    steps += [P.Split("a", b) for b in behaviors] + [P.Split("", "isolated"), P.Split("aa|.", "isolated")]
    steps += [P.Punctuation(b) for b in behaviors]
    steps += [P.Whitespace(), P.WhitespaceSplit(), P.Digits(False), P.Digits(True), P.CharDelimiterSplit("-")]
    steps += [P.Metaspace("\u2581", scheme, cut) for scheme in ("first", "always", "never") for cut in (True, False)]
    steps += [P.ByteLevel(add_prefix_space=a, use_regex=r) for a in (True, False) for r in (True, False)]
    steps += [P.Sequence([P.WhitespaceSplit(), P.Metaspace("_", "always", True)]),
              P.Sequence([P.ByteLevel(add_prefix_space=False), P.Digits(True)])]
    patterns = [r"\w+", r"\W", r"\b", r"\B.", r"[\w']+", r"[^\W_]+", r"[\Wb]", r"\h+", r"[^\h]", r"\d+", r"[^\s\d]+",
                r"\p{N}{1,3}+", r"\p{N}{2}?", r"\p{N}{,2}", r"x{2,3}?", r"x*", r"x*+x?", r"^.", r".$", r"(?m:x.+)",
                r"(?i)k|'S", r"(?i:[s-t]+)", r"\p{Han}+", r"\p{^L}+", r"\P{L}", r"[[:punct:]]+", r"[[:^alpha:]]",
                r"\p{Alnum}+", r"[[:space:]]", r"\p{Latin}+", r"\p{Letter}", r"[a-c[x-z]]", r"[^a[^b]]", r"\u0041|\x{42}",
                r"(?<name>a)|b(?=c)", r"(?<!a)b", r"(?>a+)b?", r"\R", r"[\n\r\t-]", r"[a\-z\]]+", r"\A.", r".\Z", r".\z",
                r"a**", r"(?:ab)+?", r"(?#comment)a", r"\p{Upper}|\p{Lower}", r"\p{Cntrl}", r"[[:word:]]", r"\p{Blank}",
                r"[\p{L}&&]x", r"]|{|}", r"a{,}", r"\p{Greek}|\p{sc_hebrew}", r"\s*[\r\n]+", r"\s+(?!\S)", r"\v"]
    for pattern in patterns:
        try:
            steps.append(split(pattern))
        except Exception:  # not a pattern for the reference either
            pass
    texts = component_texts()
    return [{"config": state(step),
             "hashes": "".join(short_hash([piece for piece, _ in step.pre_tokenize_str(text)]) for text in texts)}
            for step in steps]


def record_normalizers():
    N = normalizers
    steps = [N.NFC(), N.NFD(), N.NFKC(), N.NFKD(), N.Lowercase(), N.Strip(True, True), N.Strip(True, False),
             N.Strip(False, True), N.Prepend("\u2581"), N.Replace(" ", "\u2581"), N.Replace(Regex(r"\s+"), " "),
             N.Replace("", "-"), N.ByteLevel(), N.Sequence([N.NFD(), N.Lowercase(), N.Replace("a", "bb")])]
    texts = component_texts()
    return [{"config": state(step), "hashes": "".join(short_hash([step.normalize_str(text)]) for text in texts)}
            for step in steps]


def record_decoders():
    D = decoders
    steps = [D.ByteLevel(), D.Fuse(), D.ByteFallback(), D.Metaspace(), D.Metaspace(prepend_scheme="never"),
             D.Replace("\u2581", " "), D.Replace("ab", "c"), D.Replace(Regex("a+"), "b"), D.Strip("x", 2, 0), D.Strip("x", 0, 0),
             D.Sequence([D.Replace("\u2581", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)]),
             D.Sequence([D.Fuse(), D.Replace("aba", "X"), D.ByteLevel()]),
             D.Sequence([D.ByteFallback(), D.Metaspace()]), D.Sequence([D.Fuse(), D.Strip("x", 1, 1)]),
             D.Sequence([D.Fuse(), D.ByteFallback()]), D.Sequence([])]
    lists = [["a"], ["\u2581Hello", "\u2581wor", "ld"], ["\u2581", "\u2581", "x"], ["\u2581\u2581x\u2581y", "\u2581\u2581"],
             ["<0xE4>", "<0xBD>", "<0xA0>", "x"], ["<0xE4>", "<0xBD>", "x", "<0xA0>"], ["<0x41>", "<0xff>"],
             ["<0x+F>", "<0xZZ>", "<0x4>"], ["a", "<0x20>", "<0x20>", "b"], ["\u0120a", "\u00e4\u00bd", "\u0142", "\u2581"],
             ["xxxaxxx", "xa", "ax", "bxb"], ["aab", "aba", "b", "ab", "aba"], ["ab", "ab", "a", "b", "aab"], ["a", " ", "<0x0A>"],
             ["\u2581 <0x0A>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"], [" ", " x"], ["\u010a", "\u0120\u0120"]]
    out = []
    for step in steps:
        results = []
        for tokens in lists:
            results.append(step.decode(tokens))
        out.append({"config": state(step), "out": results})
    return {"tokens": lists, "decoders": out}


def all_code_points():
    return [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def ranges(code_points):
    out, first, last = [], None, None
    for c in sorted(code_points):
        if first is not None and c == last + 1:
            last = c
            continue
        if first is not None:
            out.append((first, last))
        first = last = c
    if first is not None:
        out.append((first, last))
    return ",".join("%x" % a if a == b else "%x-%x" % (a, b) for a, b in out)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def record_properties():
    """Which code points patterns match, and a hash of what normalisers make of each block of 4096."""
    everything = "".join(map(chr, all_code_points()))
    patterns = [r"\p{L}", r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Lu}", r"\p{Ll}", r"\p{Lm}", r"\p{Lo}", r"\p{Nd}", r"\s", r"\w",
                r"(?i)s", r"(?i)k", r"\p{Han}"]
    properties = {}
    for pattern in patterns:
        pieces = split(pattern, "removed", True).pre_tokenize_str(everything)
        properties[pattern] = ranges({ord(c) for piece, _ in pieces for c in piece})
    kept = {ord(c) for piece, _ in pre_tokenizers.WhitespaceSplit().pre_tokenize_str(everything) for c in piece}
    properties["white_space"] = ranges(set(all_code_points()) - kept)
    kept = {ord(c) for piece, _ in pre_tokenizers.Punctuation("removed").pre_tokenize_str(everything) for c in piece}
    properties["punctuation"] = ranges(set(all_code_points()) - kept)
    properties["numeric"] = ranges(c for c in all_code_points()
                                   if len(pre_tokenizers.Digits(True).pre_tokenize_str("a" + chr(c))) > 1)
    properties["word"] = ranges(c for c in all_code_points()
                                if [p for p, _ in pre_tokenizers.Whitespace().pre_tokenize_str("a" + chr(c))] == ["a" + chr(c)])
    hashes = {}
    for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
        normalizer = getattr(normalizers, name)()
        blocks = []
        for block in range(0, 0x110000, 4096):
            # Alone, and between others: compositions and the order of combining marks.
            parts = [chr(c) + "\na" + chr(c) + "\u0334\u0301\n" for c in range(block, block + 4096)
                     if not 0xD800 <= c <= 0xDFFF]
            blocks.append(short_hash([normalizer.normalize_str("".join(parts))]))
        hashes[name] = "".join(blocks)
    compact(OUT / "properties.json", {"properties": properties, "hashes": hashes})


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    if "--unicode" in sys.argv:
        record_properties()
        return
    compact(OUT / "corpus.json", [raw.hex() for raw in nasty_corpus()])
    for name, function in FAMILIES.items():
        compact(OUT / name / "expected.json", record(save(name, *function())))
    record_components()
    (OUT / "demo").mkdir(exist_ok=True)
    compact(OUT / "demo" / "expected.json", record(ROOT / "demo" / "model"))
    record_properties()


def record_components():
    compact(OUT / "pre_tokenizers.json", {"texts": component_texts(), "steps": record_pre_tokenizers()})
    compact(OUT / "normalizers.json", {"texts": component_texts(), "steps": record_normalizers()})
    compact(OUT / "decoders.json", record_decoders())


if __name__ == "__main__":
    main()
