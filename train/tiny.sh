#!/usr/bin/env bash
# Train the bundled model and the bundled lookup head from nothing, measure them, and put them into
# the package. Each stage goes on where it was stopped; EXPERIMENTS.md says what each reached.
# Budget on 2 cores: the chat model took 169 minutes and 7.2 GB of memory, the head 46 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 # two processes of one thread beat one of two
out=${1:-runs/tiny}
two() { python -m torch.distributed.run --nproc-per-node 2 "$@"; }

# encoders and projectors learn to name what the world's generator put there
two train/pretrain.py --tiny --output "$out/encoders" --steps 2600 --batch 16 --lr 2e-3 --precision fp32
# the language model learns to answer
two train/finetune.py --tiny --init "$out/encoders/model" --output "$out/chat" \
  --precision bf16 --steps 7600 --batch 12 --pool 24600 --lr 1.5e-3 --weight-decay 0.02
# what is learned last is asked most, on new clips
two train/finetune.py --tiny --last --init "$out/chat/model" --output "$out/last" \
  --precision bf16 --steps 3000 --batch 12 --pool 12288 --lr 1.1e-3 --weight-decay 0.02 --seed 1
two train/finetune.py --tiny --last --init "$out/last/model" --output "$out/sync" \
  --precision bf16 --steps 900 --batch 12 --pool 6144 --lr 8e-4 --weight-decay 0.02 --seed 2 \
  --more sync word_when word_exists object_when which_object_of_two
# one comparison is learned from clips of its own, and then takes its place among the others
two train/finetune.py --tiny --last --init "$out/sync/model" --output "$out/focus" \
  --precision bf16 --steps 2000 --batch 12 --pool 8192 --lr 1.2e-3 --weight-decay 0.02 --seed 3 --focus sync
two train/finetune.py --tiny --last --init "$out/focus/model" --output "$out/end" \
  --precision bf16 --steps 1400 --batch 12 --pool 8192 --lr 1e-3 --weight-decay 0.02 --seed 4 \
  --more sync word_exists sound_exists word_when sound_order
# the lookup head, on the same encoders, which the chat model did not change
two train/vlsa.py --tiny --init "$out/end/model" --base tiny --output "$out/vlsa" \
  --precision bf16 --steps 900 --batch 124 --lr 1.2e-3
# and goes on with some clips of which it sees one frame, so that a picture finds its clip
two train/vlsa.py --tiny --init "$out/end/model" --head "$out/vlsa/model" --stills 0.3 \
  --output "$out/stills" --precision bf16 --steps 250 --batch 124 --pool 6144 --lr 4e-4 --seed 1

rm -rf avchat/assets/tiny avchat/assets/heads/tiny
mkdir -p avchat/assets/heads
cp -r "$out/end/model" avchat/assets/tiny
cp -r "$out/stills/model" avchat/assets/heads/tiny
chmod -R a+rX avchat/assets
python eval/world.py --clips 500 --seed 1 | tee "$out/world.txt"
python eval/retrieval.py --clips 500 --seed 1 | tee "$out/retrieval.txt"
