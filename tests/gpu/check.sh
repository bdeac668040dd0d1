#!/bin/sh
# Checks the CUDA backend on the GPU of this machine, in one command and within nine minutes:
#
#   tests/gpu/check.sh [build folder]     (default: build/release)
#
# builds, or takes what was built; runs the tests labelled gpu, the small ones again under
# compute-sanitizer, and the GPU benchmarks; prints one short table last. Exits with 1 if anything
# failed, with 77 where there is no GPU.
#
#   tests/gpu/check.sh pack [build folder]
#
# builds and gathers programs and the libraries that they need in <build folder>/gpu-bundle. A
# machine that has the CUDA toolkit and none of the libraries takes a copy of the checkout with no
# more of the build folder than this; check.sh then runs what is there.
#
# Environment: CUDA_ARCHITECTURES (default: that of the GPU, else 90), CHECK_MODEL (a model folder
# for the benchmarks; config.json suffices; default: one of 1.2 B parameters is made up).
set -u
cd "$(dirname "$0")/../.." || exit 1
export CONVOKE_SOURCE="$PWD"

pack=no
[ "${1:-}" = pack ] && pack=yes && shift
build=${1:-build/release}
bundle=$build/gpu-bundle
programs="tests/gpu/gpu_kernels_test tests/gpu/gpu_test tests/bench/pass_bench convoke"
started=$(date +%s)
limit=520 # seconds in all; what does not fit any more is left out and said so
failed=0
table=$(mktemp) && output=$(mktemp) || exit 1
trap 'rm -rf "$table" "$output" "${made_up:-}"' EXIT

say() { printf '== %s\n' "$*"; }
row() { printf '%-44s %s\n' "$1" "$2" >> "$table"; }
left() { echo $((limit - $(date +%s) + started)); }

architecture() {
  nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1 | tr -d '. '
}

build_all() {
  arch=${CUDA_ARCHITECTURES:-$(architecture)}
  say "building in $build for architecture ${arch:-90}"
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCONVOKE_CUDA=ON \
    -DCONVOKE_BENCHMARKS=ON -DCONVOKE_CUDA_ARCHITECTURES="${arch:-90}" > "$output" 2>&1 ||
    { cat "$output"; exit 1; }
  cmake --build "$build" --target gpu_kernels_test gpu_test pass_bench convoke || exit 1
}

# Programs and their libraries, but for the C library and the driver, which belong to the machine.
gather() {
  rm -rf "$bundle" && mkdir -p "$bundle/lib" || exit 1
  for program in $programs; do
    cp "$build/$program" "$bundle/" && strip "$bundle/$(basename "$program")" || exit 1
    ldd "$build/$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }'
  done | sort -u | grep -v -E '/(libc|libm|libdl|librt|libpthread|libcuda|ld-linux[^/]*)\.so' |
    while read -r library; do cp -L "$library" "$bundle/lib/" || exit 1; done
  say "gathered in $bundle: $(du -sh "$bundle" | cut -f 1)"
}

if [ "$pack" = yes ]; then
  build_all
  gather
  exit 0
fi
if [ ! -e "$build/build.ninja" ] && [ -x "$bundle/gpu_kernels_test" ]; then
  say "taking what lies in $bundle"
  export LD_LIBRARY_PATH="$PWD/$bundle/lib:${LD_LIBRARY_PATH:-}"
  kernels=$bundle/gpu_kernels_test tests=$bundle/gpu_test bench=$bundle/pass_bench
  convoke=$bundle/convoke
else
  build_all
  kernels=$build/tests/gpu/gpu_kernels_test tests=$build/tests/gpu/gpu_test
  bench=$build/tests/bench/pass_bench convoke=$build/convoke
fi
if ! nvidia-smi -L > /dev/null 2>&1; then
  say "no GPU here (nvidia-smi -L): built, nothing run"
  exit 77
fi
row "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1)" ""

# run NAME COMMAND...: within what is left of the time; a line of the table says how it ended.
run() {
  name=$1
  shift
  seconds=$(left)
  if [ "$seconds" -lt 10 ]; then
    row "$name" "left out: no time"
    return 0
  fi
  say "$name"
  begun=$(date +%s)
  timeout "$seconds" "$@" > "$output" 2>&1
  code=$?
  took=$(($(date +%s) - begun))
  if [ $code = 0 ]; then
    row "$name" "ok, $took s"
  else
    failed=1
    row "$name" "FAILED ($code), $took s"
    tail -n 60 "$output"
  fi
}

if [ "$tests" = "$bundle/gpu_test" ]; then
  run "tests of kernels" "$kernels" --gtest_brief=1
  run "tests" "$tests" --gtest_brief=1
else
  run "tests (ctest -L gpu)" ctest --test-dir "$build" -L gpu --output-on-failure
fi
run "decoding with the demo model" "$convoke" generate --model demo/model --device cuda \
  --temperature 0 --max-tokens 48 "def fibonacci(n):"
run "the same, exact and with drafts" "$convoke" generate --model demo/model --device cuda \
  --drafter ngram --temperature 0 --max-tokens 48 "def fibonacci(n):"
run "the same, drafts on the GPU" "$convoke" generate --model demo/model --device cuda \
  --drafter eagle:demo/drafters/eagle --temperature 0 --max-tokens 48 "def fibonacci(n):"
run "drafters on and off the GPU" sh -c 'for place in cuda cpu; do echo "drafts on $place:"
  "$0" bench --model demo/model --device cuda --draft-device "$place" --prompts demo/prompts.jsonl \
    --limit 4 --temperature 1 --drafters none,eagle:demo/drafters/eagle --no-floor -q || exit 1
  done' "$convoke"
sed 's/^/    /' "$output" >> "$table"
run "tokens that fast products change" "$tests" --gtest_brief=1 --gtest_filter='FastProducts.*'
sed -n 's/^\[ COUNTED  \]/   /p' "$output" >> "$table"
run "fast products with drafts" "$convoke" bench --model demo/model --device cuda --gpu-matmul fast \
  --prompts demo/prompts.jsonl --drafters none,ngram --limit 12 --no-floor
grep -E '^(none|ngram|  [0-9]+ of )' "$output" | sed 's/^/    /' >> "$table"

# Kernels by themselves: some of each, and few launches. Sums whose kernels wait for each other are
# left out: the tool may run one after the other.
small_kernels='DeviceCall.*:CudaElementwise.*:CudaNorm.*:CudaSums.RanksAreAddedAsATree'
small_kernels=$small_kernels:'CudaMatmul.NanInOneRowStaysThere:CudaMatmul.NormalisesAccumulates*'
small_kernels=$small_kernels:'CudaFloat8.NanWeights*:CudaFloat8.NormalisesAccumulates*'
small_kernels=$small_kernels:'CudaAttention.LargeAndTinyScores:CudaAttention.MovesInOrder'
small_kernels=$small_kernels:'CudaAttention.NanOfASibling*:CudaAttention.RowsThatSeeNothing*'
small_kernels=$small_kernels:'CudaPick.BidsDoNotDepend*:CudaPick.ABorderOnAToken*'
small_kernels=$small_kernels:'CudaPick.AllTokensBanned:CudaRank.DoesNotDepend*'
small_kernels=$small_kernels:'-*.RandomShapes*:CudaElementwise.CopiesRowsAsTheCpuDoes'
small='*TensorCores*:*CudaProducts*:GraphTest*:*CudaMedusa*:CudaHeadModels*'
for tool in memcheck racecheck initcheck synccheck; do
  command -v compute-sanitizer > /dev/null ||
    { row "compute-sanitizer" "left out: not installed"; break; }
  # initcheck knows nothing of what asynchronous copies wrote to padding: it informs, no more.
  code=1
  [ $tool = initcheck ] && code=0
  run "compute-sanitizer $tool, kernels" compute-sanitizer --tool $tool --error-exitcode $code \
    "$kernels" --gtest_brief=1 --gtest_filter="$small_kernels"
  run "compute-sanitizer $tool" compute-sanitizer --tool $tool --error-exitcode $code \
    "$tests" --gtest_brief=1 --gtest_filter="$small"
done

model=${CHECK_MODEL:-}
if [ -z "$model" ]; then
  made_up=$(mktemp -d)
  model=$made_up
  cat > "$model/config.json" << 'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048,
 "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
 "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 8192,
 "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": false,
 "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
JSON
fi
run "passes of 1 to 64 rows" "$bench" --device cuda --model "$model" --load-format dummy \
  --rows 1,2,4,8,16,32,48,64 --context 1000 --max-model-len 2048 --rounds 2 --passes 30
sed 's/^/    /' "$output" >> "$table"

say "in $(($(date +%s) - started)) s"
cat "$table"
exit $failed
