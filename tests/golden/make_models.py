#!/usr/bin/env python3
"""Makes the tiny random models of tests/golden/models and what transformers computes with them.

    python make_models.py [FOLDER]          (needs torch, transformers >= 5, safetensors)

Each model is a Hugging Face directory whose config.json is written here in one of the forms found in
published checkpoints. transformers then loads the finished directory and runs it in float32; the
results go to golden.json (its format: README.md beside this script). Same versions, same bytes.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

GREEDY_TOKENS = 16
LAST_POSITIONS = 3
# A model is there to show something: leaving it out must move the logits by at least this much.
LEAST_EFFECT = 0.1
# Greedy ids are only worth comparing where rounding cannot decide them.
LEAST_MARGIN = 0.02
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def config(architecture, model_type, dtype, dtype_key="torch_dtype", **more):
    values = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 112,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        dtype_key: dtype,
    }
    values.update(more)
    return values


def llama(dtype, **more):
    return config("LlamaForCausalLM", "llama", dtype, **more)


def mistral(dtype, **more):
    return config("MistralForCausalLM", "mistral", dtype, **more)


def qwen2(dtype, **more):
    return config("Qwen2ForCausalLM", "qwen2", dtype, **more)


def qwen3(dtype, **more):
    return config("Qwen3ForCausalLM", "qwen3", dtype, **more)


# name: (config, prompt length, number of weight files, generation_config or None)
MODELS = {
    # Llama 2: as many key/value heads as query heads, and no key that says so.
    "llama-mha-fp32": (llama("float32", hidden_size=24, vocab_size=60, intermediate_size=32), 24, 1, None),
    # Grouped heads: tp 4 and 8 replicate key/value heads.
    "llama-gqa-bf16": (
        llama("bfloat16", num_attention_heads=8, num_key_value_heads=2, head_dim=8, vocab_size=131,
              rope_theta=500000.0, attention_bias=False, mlp_bias=False),
        29, 1, {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 5]}),
    # Llama 3.2: scaled rotary frequencies, the original context shorter than the prompt.
    "llama3-scaled-bf16": (
        llama("bfloat16", num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
              rope_theta=10000.0, eos_token_id=[2, 3, 4],
              rope_scaling={"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                            "original_max_position_embeddings": 16, "rope_type": "llama3"}),
        40, 1, None),
    "llama-linear-fp16": (
        llama("float16", num_key_value_heads=4, head_dim=None, tie_word_embeddings=True,
              rope_scaling={"type": "linear", "factor": 2.5}),
        31, 1, None),
    # Biases everywhere; six heads leave two reduction groups.
    "llama-bias-bf16": (
        llama("bfloat16", hidden_size=36, num_attention_heads=6, num_key_value_heads=3,
              attention_bias=True, mlp_bias=True, vocab_size=101),
        27, 1, None),
    # Sharded, norms in float32 among bfloat16 matrices, surplus inverse frequencies of old days.
    "llama-sharded-mixed": (
        llama("bfloat16", num_key_value_heads=1, vocab_size=144), 33, 3, None),
    "llama-head80-bf16": (
        llama("bfloat16", num_attention_heads=2, num_key_value_heads=1, head_dim=80,
              intermediate_size=32, num_hidden_layers=1, vocab_size=103), 22, 1, None),
    # Extents that no tile divides; eight reduction groups of width 9 and 6.
    "llama-odd-fp32": (
        llama("float32", hidden_size=40, intermediate_size=72, num_attention_heads=8, head_dim=6,
              num_key_value_heads=8, num_hidden_layers=1, vocab_size=89,
              tie_word_embeddings=True), 35, 1, None),
    # One head: one reduction group, tp 1 only.
    "llama-one-head-fp16": (
        llama("float16", num_attention_heads=1, num_key_value_heads=1, vocab_size=128), 20, 1,
        None),
    # The window is much shorter than the prompt.
    "mistral-window-bf16": (
        mistral("bfloat16", num_key_value_heads=2, head_dim=16, sliding_window=7,
                tie_word_embeddings=True), 37, 1, None),
    "mistral-full-fp32": (
        mistral("float32", dtype_key="dtype", hidden_size=24, num_key_value_heads=2, intermediate_size=24,
                sliding_window=None, vocab_size=90,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}), 26, 1, None),
    "qwen2-tied-bf16": (
        qwen2("bfloat16", num_key_value_heads=2, tie_word_embeddings=True, use_sliding_window=False,
              sliding_window=32768, max_window_layers=21, rope_theta=1000000.0, rms_norm_eps=1e-6,
              vocab_size=151), 32, 1, None),
    # Only the layers from max_window_layers on have a window.
    "qwen2-window-fp32": (
        qwen2("float32", hidden_size=24, num_key_value_heads=2, intermediate_size=24, num_hidden_layers=3,
              use_sliding_window=True, sliding_window=9, max_window_layers=1, vocab_size=64),
        34, 1, None),
    "qwen3-bf16": (
        qwen3("bfloat16", num_key_value_heads=2, head_dim=16, attention_bias=False,
              tie_word_embeddings=True, rope_theta=1000000.0, rope_scaling=None,
              use_sliding_window=False, sliding_window=None, rms_norm_eps=1e-6), 38, 1, None),
    "qwen3-bias-fp16": (
        qwen3("float16", dtype_key="dtype", num_key_value_heads=4, head_dim=12, attention_bias=True,
              layer_types=["full_attention", "full_attention"],
              rope_parameters={"rope_theta": 10000.0, "rope_type": "default"}), 21, 1, None),
}


def random_weights(model, dtype, mixed, generator):
    """Large enough that logits differ by several units; norms and biases that matter."""
    tensors = {}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.3 * noise
        elif parameter.dim() == 1:
            value = 1.0 + 0.3 * noise
        elif "embed_tokens" in name:
            value = noise * (2.0 / parameter.shape[1] ** 0.5)
        else:
            value = noise * (1.6 / parameter.shape[1] ** 0.5)
        keep = mixed and parameter.dim() == 1
        tensors[name] = value.to(torch.float32 if keep else dtype).contiguous()
    return tensors


def save_weights(folder, tensors, files):
    if files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    weight_map = {}
    for i in range(files):
        # Dealt by turns, so that every layer is spread over all files.
        part = {name: tensors[name] for name in names[i::files]}
        file = f"model-{i + 1:05d}-of-{files:05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in part})
    index = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def run(model, ids):
    """Logits of every position; and by hook the residual stream after embedding and each layer."""
    seen = {"layers": []}
    hooks = [model.model.embed_tokens.register_forward_hook(
        lambda _m, _i, out: seen.__setitem__("embedding", out[0]))]
    for layer in model.model.layers:
        hooks.append(layer.register_forward_hook(
            lambda _m, _i, out: seen["layers"].append((out[0] if isinstance(out, tuple) else out)[0])))
    hooks.append(model.model.norm.register_forward_hook(
        lambda _m, _i, out: seen.__setitem__("norm", out[0])))
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return logits, seen


def without_each_feature(values):
    """Configurations that leave out one thing each: a window or the scaling of rotary frequencies."""
    for key in ("sliding_window", "rope_scaling"):
        if values.get(key) is not None and values.get("use_sliding_window", True):
            yield key, {**values, key: None}


def check_features_matter(values, model, prompt, logits):
    for key, changed in without_each_feature(values):
        other = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**changed), attn_implementation="eager").eval()
        other.load_state_dict(model.state_dict())
        effect = (run(other.float(), prompt)[0][-1] - logits[-1]).abs().max().item()
        assert effect > LEAST_EFFECT, f"{key} changes logits by {effect} only"


def greedy(model, prompt):
    ids, margin = list(prompt), float("inf")
    for _ in range(GREEDY_TOKENS):
        logits, _ = run(model, ids)
        best = torch.topk(logits[-1], 2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        ids.append(best.indices[0].item())
    return ids[len(prompt):], margin


def floats(tensor):
    """Enough digits that float32 comes back bit for bit."""
    if tensor.dim() > 1:
        return [floats(row) for row in tensor]
    return [float(f"{value:.9g}") for value in tensor.float().tolist()]


def make_model(folder, values, prompt_length, files, generation, seed):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    generator = torch.Generator().manual_seed(seed)
    blank = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    dtype = DTYPES[values.get("torch_dtype", values.get("dtype"))]
    mixed = files > 1
    tensors = random_weights(blank, dtype, mixed, generator)
    saved = dict(tensors)
    if mixed:
        saved["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_weights(folder, saved, files)

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tensors[name].float()), name
    vocabulary = values["vocab_size"]
    prompt = torch.randint(0, vocabulary, (prompt_length,), generator=generator).tolist()
    short = torch.randint(0, vocabulary, (1,), generator=generator).tolist()
    continuation, margin = greedy(model, prompt)
    if margin < LEAST_MARGIN:
        return False
    logits, seen = run(model, prompt)
    check_features_matter(values, model, prompt, logits)
    short_logits, _ = run(model, short)
    first = prompt_length - LAST_POSITIONS
    golden = {
        "parameters": model.num_parameters(),
        "inverse_frequencies": floats(model.model.rotary_emb.inv_freq),
        "prompt": prompt,
        "positions": list(range(first, prompt_length)),
        "logits": floats(logits[first:]),
        "short_prompt": short,
        "short_logits": floats(short_logits[0]),
        "hidden": {
            "embedding": floats(seen["embedding"][-1]),
            "layers": [floats(layer[-1]) for layer in seen["layers"]],
            "norm": floats(seen["norm"][-1]),
        },
        "greedy": continuation,
        "greedy_margin": float(f"{margin:.3g}"),
    }
    text = json.dumps(golden, separators=(",", ":")).replace('],"', '],\n"').replace("],[", "],\n[")
    (folder / "golden.json").write_text(text + "\n")
    spread = logits[first:].std().item()
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.name:22} seed {seed:4} logits +-{spread:.2f} margin {margin:.3f} {size} bytes")
    return True


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    here = pathlib.Path(__file__).resolve().parent
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "models"
    for number, (name, spec) in enumerate(MODELS.items()):
        seed = 1000 * number + 1
        while not make_model(target / name, *spec, seed):
            seed += 1


if __name__ == "__main__":
    main()
