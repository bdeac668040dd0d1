#!/usr/bin/env python3
"""Makes the tiny random drafting heads of tests/golden/heads and what PyTorch computes with them.

    python make_heads.py [FOLDER]          (needs torch, safetensors)

Every head drafts for one of the models of tests/golden/models, whose embedding and lm_head it
borrows. The forward passes below are written from the descriptions of the methods (EAGLE: arXiv
2401.15077, EAGLE-2: 2406.16858, EAGLE-3: 2503.01840, Medusa: 2401.10774) in float32, without a
cache: every pass runs all entries from the beginning under an explicit mask. The format of
golden.json: README.md beside this script. Same versions, same bytes.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

PROMPT = 19
TOP = 24
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Accepted drafts of the rounds after the prompt: none, some, a whole path.
ACCEPTED = [2, 0, 4]
# Trees by parents: a wide one with three levels, a chain, siblings only.
TREES = [[-1, -1, -1, 0, 0, 1, 3, 3, 5, 6], [-1, 0, 1, 2, 3], [-1, -1, -1, -1], [-1, 0, -1, 2, 2]]


class Rounding:
    """When on, inputs of products and the cache keep bfloat16's 8 bits, as they do in passes with
    bfloat16 weights: what that changes is the measure of what it may change elsewhere."""

    on = False


def rounded(x):
    return x.bfloat16().float() if Rounding.on else x


def product(x, weight):
    return rounded(x) @ rounded(weight).T


def rms_norm(x, weight, epsilon):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight


def rotate(x, positions, theta):
    """x [rows, heads, head_dim]; element j is rotated with element j + head_dim / 2."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = positions.double()[:, None] * frequency
    cos, sin = angle.cos().float()[:, None, :], angle.sin().float()[:, None, :]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def attention(config, weights, prefix, x, positions, mask):
    heads, kv_heads, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]

    def project(name, count):
        y = product(x, weights[f"{prefix}self_attn.{name}_proj.weight"])
        bias = weights.get(f"{prefix}self_attn.{name}_proj.bias")
        return (y if bias is None else y + bias).view(-1, count, size)

    theta = config.get("rope_theta", 10000.0)
    q = rotate(project("q", heads), positions, theta)
    k = rounded(rotate(project("k", kv_heads), positions, theta)).repeat_interleave(heads // kv_heads, 1)
    v = rounded(project("v", kv_heads)).repeat_interleave(heads // kv_heads, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / size**0.5
    share = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    y = torch.einsum("hqk,khd->qhd", share, v).reshape(x.shape[0], -1)
    return product(y, weights[f"{prefix}self_attn.o_proj.weight"])


def mlp(weights, prefix, x):
    gate, up, down = (weights[f"{prefix}mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
    return product(torch.nn.functional.silu(product(x, gate)) * product(x, up), down)


class Eagle:
    """Entries are (token, feature) pairs; the feature is the target's or another entry's output."""

    prefix = "layers.0."

    def __init__(self, config, weights, embedding, lm_head):
        self.config, self.w = config, weights
        self.embedding = weights.get("embed_tokens.weight", embedding)
        self.lm_head = lm_head
        if "d2t" in weights:
            self.lm_head = lm_head[self.column_tokens()]

    def column_tokens(self):
        if "d2t" not in self.w:
            return torch.arange(self.lm_head.shape[0])
        return torch.arange(self.w["d2t"].shape[0]) + self.w["d2t"]

    def fuse(self, feature):  # of the target
        return feature

    def layer(self, tokens, features, positions, mask):
        x = product(torch.cat([self.embedding[tokens], features], dim=-1), self.w["fc.weight"])
        if "fc.bias" in self.w:
            x = x + self.w["fc.bias"]
        return self.block(x, x, positions, mask)

    def block(self, residual, x, positions, mask):
        x = residual + attention(self.config, self.w, self.prefix, x, positions, mask)
        norm = self.w[self.prefix + "post_attention_layernorm.weight"]
        return x + mlp(self.w, self.prefix, rms_norm(x, norm, self.config["rms_norm_eps"]))

    def logits(self, x):
        return product(x, self.lm_head)


class Eagle3(Eagle):
    def __init__(self, config, weights, embedding, prefix):
        super().__init__(config, {**weights}, embedding, torch.zeros(0, 0) if "d2t" not in weights
                         else torch.zeros(config["vocab_size"], 1))
        self.prefix, self.lm_head = prefix, weights["lm_head.weight"]

    def fuse(self, feature):
        return product(feature, self.w["fc.weight"])

    def layer(self, tokens, g, positions, mask):
        epsilon = self.config["rms_norm_eps"]
        normed = rms_norm(g, self.w[self.prefix + "hidden_norm.weight"], epsilon)
        embedded = rms_norm(self.embedding[tokens], self.w[self.prefix + "input_layernorm.weight"], epsilon)
        residual = normed if self.config.get("norm_before_residual", False) else g
        return self.block(residual, torch.cat([embedded, normed], dim=-1), positions, mask)

    def logits(self, x):
        norm = rms_norm(x, self.w["norm.weight"], self.config["rms_norm_eps"])
        return product(norm, self.w["lm_head.weight"])


def floats(tensor):
    if tensor.dim() > 1:
        return [floats(row) for row in tensor]
    return [float(f"{value:.9g}") for value in tensor.float().tolist()]


def best(head, logits):
    top = torch.topk(logits, min(TOP, logits.shape[-1]))
    return {"ids": head.column_tokens()[top.indices].tolist(), "scores": floats(top.values)}


def rounds(head, tokens, features, vocabulary, generator):
    """The prompt, then a round per entry of ACCEPTED: true entries, their last one's candidates, a
    tree of guesses below it, level by level, each with its parent's output for a feature."""
    steps, entries = [], 0
    fused = head.fuse(features)
    for number, parents in enumerate(TREES):
        begin = entries
        entries = PROMPT if number == 0 else entries + ACCEPTED[number - 1] + 1
        size = entries + len(parents)
        node_tokens = torch.randint(0, vocabulary, (len(parents),), generator=generator)
        all_tokens = torch.cat([tokens[1:entries + 1], node_tokens])
        x = torch.zeros(size, fused.shape[1])
        x[:entries] = fused[:entries]
        positions = torch.arange(size)
        mask = torch.ones(size, size).tril().bool()
        for i, parent in enumerate(parents):
            row = entries + i
            above = entries - 1 if parent < 0 else entries + parent
            mask[row] = mask[above]
            mask[row, row] = True
            positions[row] = positions[above] + 1
        for i, parent in enumerate(parents):  # parents come first, so one pass per node will do
            above = entries - 1 if parent < 0 else entries + parent
            x[entries + i] = head.layer(all_tokens, x, positions, mask)[above]
        out = head.layer(all_tokens, x, positions, mask)
        logits = head.logits(out)
        steps.append({
            "feature_begin": begin,
            "tokens": entries + 1,
            "root": best(head, logits[entries - 1]),
            "tree": [{"parent": parent, "token": int(node_tokens[i]), **best(head, logits[entries + i])}
                     for i, parent in enumerate(parents)],
        })
    return steps


def all_scores(value):
    """The lists of scores in a result, in order."""
    if isinstance(value, dict):
        return [value["scores"]] if "scores" in value else []
    return [scores for item in value for scores in all_scores(item)]


def bfloat16_error(run):
    """Largest change of the n-th best score by rounding, relative to the largest score of its row."""
    results = []
    for Rounding.on in (True, False):
        value = run()
        if isinstance(value[0], dict):  # steps
            value = [best for step in value for best in [step["root"], *step["tree"]]]
        results.append(all_scores(value))
    worst = max(abs(a - b) / abs(exact[0]) for narrow, exact in zip(*results)
                for a, b in zip(narrow, exact))
    return float(f"{worst:.3g}")


def random_tensor(shape, generator, scale, dtype):
    return (torch.randn(shape, generator=generator) * scale).to(dtype).contiguous()


def layer_tensors(config, prefix, inputs, dtype, generator, bias):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    tensors = {}

    def matrix(name, rows, cols, biased=False):
        tensors[f"{prefix}{name}.weight"] = random_tensor((rows, cols), generator, 0.9 / cols**0.5, dtype)
        if biased:
            tensors[f"{prefix}{name}.bias"] = random_tensor((rows,), generator, 0.4, dtype)

    matrix("self_attn.q_proj", q, inputs, bias)
    matrix("self_attn.k_proj", kv, inputs, bias)
    matrix("self_attn.v_proj", kv, inputs, bias)
    matrix("self_attn.o_proj", hidden, q)
    matrix("mlp.gate_proj", inner, hidden)
    matrix("mlp.up_proj", inner, hidden)
    matrix("mlp.down_proj", hidden, inner)
    tensors[prefix + "post_attention_layernorm.weight"] = norm_tensor(hidden, generator, dtype)
    return tensors


def norm_tensor(size, generator, dtype):
    return (1 + 0.3 * torch.randn(size, generator=generator)).to(dtype)


def draft_vocabulary(vocabulary, columns, generator, shuffled):
    ids = torch.randperm(vocabulary, generator=generator)[:columns]
    ids = ids if shuffled else ids.sort().values
    mask = torch.zeros(vocabulary, dtype=torch.bool)
    mask[ids] = True
    return {"d2t": ids - torch.arange(columns), "t2d": mask}


def eagle_tensors(case, config, dtype, generator):
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    tensors = layer_tensors(config, "layers.0.", hidden, dtype, generator, case.get("qkv_bias", False))
    tensors["fc.weight"] = random_tensor((hidden, 2 * hidden), generator, 0.8 / hidden**0.5, dtype)
    if config.get("bias", True):
        tensors["fc.bias"] = random_tensor((hidden,), generator, 0.5, dtype)
    if case.get("embedding"):
        tensors["embed_tokens.weight"] = random_tensor((vocabulary, hidden), generator, 0.5, dtype)
    if "draft_vocab_size" in config:
        tensors.update(draft_vocabulary(vocabulary, config["draft_vocab_size"], generator, False))
    return tensors


def eagle3_tensors(case, config, dtype, generator):
    hidden, vocabulary, prefix = config["hidden_size"], config["vocab_size"], case.get("prefix", "midlayer.")
    width = case["layers"] * config.get("target_hidden_size", hidden)
    columns = config.get("draft_vocab_size", vocabulary)
    tensors = layer_tensors(config, prefix, 2 * hidden, dtype, generator, case.get("qkv_bias", False))
    tensors["fc.weight"] = random_tensor((hidden, width), generator, 1.2 / width**0.5, dtype)
    for name in (prefix + "input_layernorm", prefix + "hidden_norm", "norm"):
        tensors[name + ".weight"] = norm_tensor(hidden, generator, dtype)
    tensors["lm_head.weight"] = random_tensor((columns, hidden), generator, 1.0 / hidden**0.5, dtype)
    if case.get("embedding"):
        tensors["embed_tokens.weight"] = random_tensor((vocabulary, hidden), generator, 0.5, dtype)
    if columns < vocabulary:
        tensors.update(draft_vocabulary(vocabulary, columns, generator, case.get("shuffled", False)))
    return tensors


def medusa_tensors(case, hidden, vocabulary, dtype, generator):
    tensors = {}
    for head in range(case["heads"]):
        name = f"{case.get('prefix', '')}{head}."
        for layer in range(case["layers"]):
            tensors[f"{name}{layer}.linear.weight"] = random_tensor(
                (hidden, hidden), generator, 1.0 / hidden**0.5, dtype)
            tensors[f"{name}{layer}.linear.bias"] = random_tensor((hidden,), generator, 0.4, dtype)
        tensors[f"{name}{case['layers']}.weight"] = random_tensor(
            (vocabulary, hidden), generator, 1.5 / hidden**0.5, dtype)
    return tensors


def medusa(case, weights, features):
    """[rows] of features -> [heads][rows] of the best tokens."""
    heads = []
    for head in range(case["heads"]):
        name = f"{case.get('prefix', '')}{head}."
        x = features
        for layer in range(case["layers"]):
            z = product(x, weights[f"{name}{layer}.linear.weight"]) + weights[f"{name}{layer}.linear.bias"]
            x = x + torch.nn.functional.silu(z)
        top = torch.topk(product(x, weights[f"{name}{case['layers']}.weight"]), TOP)
        heads.append([{"ids": ids.tolist(), "scores": floats(scores)}
                      for ids, scores in zip(top.indices, top.values)])
    return heads


def llama_config(dtype, architecture="LlamaForCausalLM", **more):
    values = {
        "architectures": [architecture], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "torch_dtype": dtype,
    }
    values.update(more)
    return values


EAGLE3 = "LlamaForCausalLMEagle3"
CASES = {
    # As published: a bias of fc that no key speaks of, no rope_theta.
    "eagle-fp32": {"target": "llama-gqa-bf16", "config": llama_config("float32", vocab_size=131)},
    "eagle-embedding-bf16": {"target": "llama-gqa-bf16", "embedding": True, "config": llama_config(
        "bfloat16", vocab_size=131, bias=False, rope_theta=500000.0, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32)},
    "eagle-qkv-bias-fp16": {"target": "qwen2-tied-bf16", "qkv_bias": True, "file": "pytorch_model.bin", "config": llama_config(
        "float16", vocab_size=151, bias=False, num_attention_heads=3, num_key_value_heads=3)},
    "eagle-reduced-fp32": {"target": "llama-gqa-bf16", "config": llama_config(
        "float32", vocab_size=131, draft_vocab_size=50, drafter="eagle")},
    "eagle3-fp32": {"target": "llama-gqa-bf16", "layers": 3, "file": "pytorch_model.bin", "config": llama_config(
        "float32", EAGLE3, vocab_size=131)},
    "eagle3-reduced-bf16": {"target": "llama-gqa-bf16", "layers": 3, "config": llama_config(
        "bfloat16", EAGLE3, vocab_size=131, draft_vocab_size=60, norm_before_residual=True,
        eagle_config={"eagle_aux_hidden_state_layer_ids": [0, 1]}, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32)},
    # Wider than the target, with an embedding of its own, the layer under its other name, and draft
    # tokens in no order.
    "eagle3-wide-fp32": {"target": "llama-gqa-bf16", "layers": 2, "embedding": True, "shuffled": True,
                         "qkv_bias": True, "prefix": "layers.0.", "config": llama_config(
        "float32", EAGLE3, vocab_size=131, hidden_size=48, target_hidden_size=32, draft_vocab_size=40,
        eagle_aux_hidden_state_layer_ids=[0, 2])},
    "medusa-fp32": {"target": "llama-gqa-bf16", "heads": 3, "layers": 1, "file": "medusa_lm_head.pt"},
    "medusa-two-layers-bf16": {"target": "llama-gqa-bf16", "heads": 2, "layers": 2,
                               "prefix": "medusa_head.", "config": {
        "medusa_num_heads": 2, "medusa_num_layers": 2, "torch_dtype": "bfloat16"}},
}
# eagle_config names the layers that are left; two of them here.
CASES["eagle3-reduced-bf16"]["layers"] = 2


def make_head(folder, models, name, case, seed):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    generator = torch.Generator().manual_seed(seed)
    target_config = json.loads((models / case["target"] / "config.json").read_text())
    target = {k: v.float() for k, v in load_file(models / case["target"] / "model.safetensors").items()}
    embedding = target["model.embed_tokens.weight"]
    lm_head = target.get("lm_head.weight", embedding)
    hidden, vocabulary = target_config["hidden_size"], target_config["vocab_size"]
    config = case.get("config", {})
    if config:
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    dtype = DTYPES[config.get("torch_dtype", "float32")]
    golden = {"target": case["target"]}
    if name.startswith("medusa"):
        tensors = medusa_tensors(case, hidden, vocabulary, dtype, generator)
        weights = {k: v.float() for k, v in tensors.items()}
        features = random_tensor((5, hidden), generator, 1.0, torch.bfloat16).float()
        error = bfloat16_error(lambda: medusa(case, weights, features))
        golden.update({"features": floats(features), "bfloat16_error": error,
                       "heads": medusa(case, weights, features)})
    else:
        make = eagle3_tensors if name.startswith("eagle3") else eagle_tensors
        tensors = make(case, config, dtype, generator)
        weights = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
        length = PROMPT + sum(ACCEPTED) + len(ACCEPTED)
        tokens = torch.randint(0, vocabulary, (length + 1,), generator=generator)
        width = case["layers"] * hidden if name.startswith("eagle3") else hidden
        # Features that bfloat16 can hold, so that they are the same in every dtype.
        features = random_tensor((length, width), generator, 1.0, torch.bfloat16).float()
        head = (Eagle3(config, weights, embedding, case.get("prefix", "midlayer."))
                if name.startswith("eagle3") else Eagle(config, weights, embedding, lm_head))
        nodes = generator.get_state()

        def run():
            return rounds(head, tokens, features, vocabulary, generator.set_state(nodes))

        golden.update({"tokens": tokens.tolist(), "features": floats(features),
                       "bfloat16_error": bfloat16_error(run), "steps": run()})
    if "file" in case:
        torch.save(tensors, folder / case["file"])
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(golden, separators=(",", ":")).replace("],[", "],\n[").replace("},{", "},\n{")
    (folder / "golden.json").write_text(text + "\n")
    print(f"{name:24} {sum(file.stat().st_size for file in folder.iterdir())} bytes")


def main():
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    here = pathlib.Path(__file__).resolve().parent
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "heads"
    for number, (name, case) in enumerate(CASES.items()):
        make_head(target / name, here / "models", name, case, 5000 + number)


if __name__ == "__main__":
    main()
