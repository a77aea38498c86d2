#!/usr/bin/env bash
# vLLM's Python code without its CUDA packages, in recipes/vllm/.venv-vllm: enough to import the classes
# of its batch runner (tests/test_engines.py), not to run a model.
set -euo pipefail
cd "$(dirname "$0")"
[ -x .venv-vllm/bin/pip ] || ${PYTHON:-python3} -m venv .venv-vllm
pip=.venv-vllm/bin/pip
$pip install -q torch==2.13.0 pytest sympy datasets
$pip install -q --no-deps vllm==0.33.0
gpu='torch|torchaudio|torchvision|torchcodec|PyNvVideoCodec|flashinfer-python|tilelang|nvtx'
gpu+='|nvidia-cudnn-frontend|nvidia-cutlass-dsl|fastsafetensors|instanttensor|quack-kernels'
gpu+='|tokenspeed-mla|humming-kernels|numba'
.venv-vllm/bin/python -c '
from importlib.metadata import requires
for line in requires("vllm"):
    if "extra ==" not in line: print(line)
' | grep -vE "^($gpu)[^a-zA-Z-]" > .venv-vllm/requirements.txt
$pip install -q -r .venv-vllm/requirements.txt
