#!/usr/bin/env bash
# Time LoRA on a GPU beside TRL with PEFT, packing, FlashAttention (where flash-attn is installed) and Liger's kernels
# (where liger-kernel is): the sizes of Llama 3.2 1B with random weights, rank 16 on every linear layer, bfloat16, blocks
# of 2,048 tokens. It takes about five minutes and never more than eight, and needs no network.
#   pip install -e '.[benchmark]' && bash recipes/benchmark_gpu.sh
# Of an unknown GPU give the peak, in TFLOP/s of bfloat16 without sparsity: bash recipes/benchmark_gpu.sh --peak_tflops 165
# Whether everything starts, on a processor core: bash recipes/benchmark_gpu.sh --llama tiny --rows 32
set -euo pipefail
cd "$(dirname "$0")/.."
ways='[ours-lora, trl-tuned-lora, trl-lora]'
"${PYTHON:=python}" -c 'import liger_kernel' 2> /dev/null && ways='[ours-lora, trl-liger-lora, trl-tuned-lora, trl-lora]'
exec env HF_HUB_OFFLINE=1 timeout 480 "$PYTHON" recipes/benchmark.py --what causal-lm --llama 1b --ways "$ways" --rows 320 \
  --repetitions 1 --data.dataset helpdesk --run_dir runs/benchmark-gpu --overwrite true "$@"
