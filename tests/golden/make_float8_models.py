#!/usr/bin/env python3
"""Makes the tiny models with weights of 8 bits of tests/golden/float8_models, and their logits.

    python make_float8_models.py [FOLDER]   (needs torch, transformers >= 5, safetensors)

One model per form in which such checkpoints are published (runtime/quantization.h says where these
forms are defined). The reference is transformers with the weights multiplied out, in float32; once
as it is (`logits`), and once with the inputs of linear layers, keys and values rounded to bfloat16,
as Convoke rounds them (`rounded_logits`).
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from make_models import (DTYPES, LAST_POSITIONS, floats, greedy, llama, qwen2, qwen3, random_weights,
                         run)

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0


def compressed(strategy, activations, format_name, ignore, key="quantization_config"):
    """The block as llm-compressor writes it."""
    def arguments(strategy_name, dynamic):
        return {"actorder": None, "block_structure": None, "dynamic": dynamic, "group_size": None,
                "num_bits": 8, "observer": "minmax", "observer_kwargs": {},
                "strategy": strategy_name, "symmetric": True, "type": "float"}
    return {key: {
        "config_groups": {"group_0": {
            "input_activations": arguments(*activations), "output_activations": None,
            "targets": ["Linear"], "weights": arguments(strategy, False)}},
        "format": format_name, "global_compression_ratio": 1.24, "ignore": ignore,
        "kv_cache_scheme": None, "quant_method": "compressed-tensors",
        "quantization_status": "compressed"}}


def fbgemm(layers):
    """Attention is left alone, as in the published model of 405 billion parameters."""
    names = ["lm_head"] + [f"model.layers.{i}.self_attn.{name}_proj" for i in range(layers)
                           for name in "qkvo"]
    return {"quantization_config": {"activation_scale_ub": 1200.0, "quant_method": "fbgemm_fp8",
                                    "modules_to_not_convert": names}}


GQA = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 131}

# name: (config, how scales are stored, scales of inputs are there too)
#   "channel": [outputs, 1], "flat": [outputs], "scalar": [], "one": [1]
MODELS = {
    "compressed-channel": (
        llama("bfloat16", **GQA,
              **compressed("channel", ("token", True), "float-quantized", ["lm_head"])),
        "channel", torch.bfloat16, False),
    "compressed-tensor": (
        qwen2("bfloat16", num_key_value_heads=4, tie_word_embeddings=True, use_sliding_window=False,
              **compressed("tensor", ("tensor", False), "naive-quantized", ["lm_head"],
                           key="compression_config")),
        "one", torch.float32, True),
    # lm_head has 8 bits too; one layer's attention is left alone by a pattern.
    "compressed-head": (
        qwen3("bfloat16", num_key_value_heads=2, head_dim=16, attention_bias=True,
              **compressed("channel", ("token", True), "float-quantized",
                           ["re:.*layers\\.1\\.self_attn.*"])),
        "flat", torch.float16, False),
    "autofp8-static": (
        llama("bfloat16", num_key_value_heads=4, attention_bias=True, mlp_bias=True,
              quantization_config={"activation_scheme": "static", "quant_method": "fp8",
                                   "ignored_layers": ["lm_head", "model.layers.1.mlp.down_proj"]}),
        "scalar", torch.float32, True),
    "autofp8-dynamic": (
        llama("bfloat16", hidden_size=24, intermediate_size=40, num_key_value_heads=4, head_dim=10,
              quantization_config={"activation_scheme": "dynamic", "quant_method": "fp8"}),
        "scalar", torch.float32, False),
    "fbgemm": (llama("bfloat16", **GQA, **fbgemm(2)), "channel", torch.float32, False),
}


def left_alone(values, module):
    """Spelled out for these models, instead of interpreting the lists."""
    block = values.get("quantization_config", values.get("compression_config"))
    if module == "lm_head":
        return block["quant_method"] != "compressed-tensors" or "lm_head" in block["ignore"]
    if block["quant_method"] == "fbgemm_fp8":
        return "self_attn" in module
    if block.get("ignore") == ["re:.*layers\\.1\\.self_attn.*"]:
        return "layers.1.self_attn" in module
    return module in block.get("ignored_layers", [])


def quantise(weight, form, scale_dtype):
    """Codes, the scale as it is stored, and the weights that they stand for, in float32."""
    per_channel = form in ("channel", "flat")
    largest = weight.abs().amax(dim=1, keepdim=True) if per_channel else weight.abs().max()
    scale = (largest / LARGEST).to(scale_dtype)
    codes = (weight / scale.float()).clamp(-LARGEST, LARGEST).to(FLOAT8)
    value = codes.float() * scale.float()
    shape = {"channel": (-1, 1), "flat": (-1,), "one": (1,), "scalar": ()}[form]
    return codes, scale.reshape(shape).contiguous(), value


def rounded(tensor):
    return tensor.to(torch.bfloat16).float()


def run_rounded(model, ids):
    """Logits with the inputs of linear layers, keys and values rounded to bfloat16."""
    modeling = sys.modules[type(model).__module__]
    attention = modeling.eager_attention_forward
    calls = []

    def rounding_attention(module, query, key, value, *rest, **more):
        calls.append(module)
        return attention(module, query, rounded(key), rounded(value), *rest, **more)

    modeling.eager_attention_forward = rounding_attention
    hooks = [m.register_forward_pre_hook(lambda _m, args: (rounded(args[0]),))
             for m in model.modules() if isinstance(m, torch.nn.Linear)]
    logits, _ = run(model, ids)
    for hook in hooks:
        hook.remove()
    modeling.eager_attention_forward = attention
    assert len(calls) == model.config.num_hidden_layers
    return logits


def make_model(folder, values, form, scale_dtype, static, seed):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n")
    plain = {k: v for k, v in values.items() if not k.endswith("_config")}
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**plain), attn_implementation="eager").eval().float()
    weights = random_weights(model, DTYPES[values["torch_dtype"]], False, generator)
    saved, reference, quantised = {}, {}, 0
    for name, weight in weights.items():
        saved[name], reference[name] = weight, weight.float()
        module = name.removesuffix(".weight")
        linear = name.endswith("proj.weight") or module == "lm_head"
        if not linear or left_alone(values, module):
            continue
        saved[name], saved[name + "_scale"], reference[name] = quantise(
            weight.float(), form, scale_dtype)
        quantised += 1
        if static:
            saved[module + ".input_scale"] = torch.tensor(0.03)
    save_file(saved, folder / "model.safetensors", metadata={"format": "pt"})
    model.load_state_dict(reference, strict=not values["tie_word_embeddings"])

    vocabulary = values["vocab_size"]
    prompt = torch.randint(0, vocabulary, (30,), generator=generator).tolist()
    short = torch.randint(0, vocabulary, (1,), generator=generator).tolist()
    continuation, margin = greedy(model, prompt)
    logits, seen = run(model, prompt)
    like_ours = run_rounded(model, prompt)
    first = len(prompt) - LAST_POSITIONS
    golden = {
        "parameters": model.num_parameters(),
        "inverse_frequencies": floats(model.model.rotary_emb.inv_freq),
        "prompt": prompt,
        "positions": list(range(first, len(prompt))),
        "logits": floats(logits[first:]),
        "rounded_logits": floats(like_ours[first:]),
        "short_prompt": short,
        "short_logits": floats(run(model, short)[0][0]),
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
    change = ((like_ours - logits)[first:].norm() / logits[first:].norm()).item()
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.name:20} {quantised} layers of 8 bits, rounding moves logits by {change:.4f}, "
          f"{size} bytes")


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    here = pathlib.Path(__file__).resolve().parent
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "float8_models"
    for number, (name, spec) in enumerate(MODELS.items()):
        make_model(target / name, *spec, 7000 + number)


if __name__ == "__main__":
    main()
