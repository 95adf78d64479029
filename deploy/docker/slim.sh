#!/bin/sh
# Take out of an installed prefix what a daemon on a processor never opens:
#   slim.sh PREFIX [DEVICES]     DEVICES: of OpenVINO, besides the processor: "gpu", "npu" or "gpu npu"
# pip still knows every package; smoke.py shows that healthd does too.
set -eu
prefix=$1 devices=${2:-}
cd "$prefix"/lib/python3*/site-packages

# OpenVINO reads ONNX and its own format here; the other front ends, headers and converters are for building models.
for frontend in jax paddle pytorch tensorflow tensorflow_lite gguf; do
  rm -rf openvino/frontend/$frontend openvino/libs/libopenvino_${frontend}_frontend.*
done
rm -rf openvino/include openvino/cmake openvino/tools openvino/torch
case " $devices " in *" gpu "*) ;; *) rm -f openvino/libs/libopenvino_intel_gpu_plugin.* openvino/libs/cache.json ;; esac
case " $devices " in *" npu "*) ;; *) rm -f openvino/libs/libopenvino_intel_npu* ;; esac

# Pillow's AVIF: healthd takes JPEG, PNG, WebP and BMP.
rm -f PIL/_avif.* pillow.libs/libavif-*

# Made-up names and addresses in eighty languages, which the documents' examples come from: English is enough.
find faker/providers -mindepth 2 -type d -name '[a-z][a-z]*_*' ! -name en_US -prune -exec rm -rf {} +

# Tests, and what only compilers and editors read.
find . -type d -name tests -prune -exec rm -rf {} +
find . -type d -name __pycache__ -prune -exec rm -rf {} +
find . -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.h' -o -name '*.hpp' -o -name '*.a' -o -name '*.pc' \) -delete
