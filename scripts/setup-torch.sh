#!/bin/bash
# Installs PyTorch and the frameworks of examples/ in .venv-torch, for `make test-torch`. .venv is not touched.
# A second run finds everything installed and ends at once.
#
# pip takes the build that its configuration offers. With PyTorch's index of CPU builds in PIP_EXTRA_INDEX_URL, or a CPU
# wheel in PIP_FIND_LINKS, that is the CPU build (1.2 GB installed, all packages together). PyPI's build for x86-64
# brings CUDA's libraries, which are several GB more; it computes on CPUs as well.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=tests/torch/requirements.txt
made_from="$(cat "$requirements" scripts/setup-torch.sh | sha256sum)"
if [ "$(cat .venv-torch/made-from 2>/dev/null)" = "$made_from" ]; then exit 0; fi
echo "installing PyTorch in .venv-torch" >&2
# Another Python, or half an installation, may lie there.
rm -rf .venv-torch
.venv/bin/python -m venv .venv-torch
.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
.venv-torch/bin/python - <<'PY'
import torch, torch.distributed
assert torch.distributed.is_gloo_available(), "this PyTorch has no gloo"
print(f"PyTorch {torch.__version__} in .venv-torch")
PY
echo "$made_from" >.venv-torch/made-from
