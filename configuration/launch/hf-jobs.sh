#!/usr/bin/env bash
# Hugging Face Jobs. From the clone's root, logged in by `.venv/bin/hf auth login`:
#
#   mkdir code && git archive HEAD | tar --extract --directory code
#   .venv/bin/hf buckets create OWNER/BUCKET --private --exist-ok
#   .venv/bin/hf jobs run --detach --flavor a100x8 --timeout 2d --attempts 5 --secrets HF_TOKEN --volume code:/code \
#     python:3.12 bash /code/configuration/launch/hf-jobs.sh OWNER/BUCKET configuration/recipes/blog-baseline.yaml
#
# Settings may follow the recipe, as --field value, and so may --resume and --allow_changed. This script is what runs
# there. The bucket holds the run folder of this run alone: the job begins with what is in it and sends every five
# minutes what is new, so the next attempt, and the same command after the time is over, go on from the newest whole
# checkpoint. The run is on the machine's own disk, since a mounted bucket has no locks and cannot append. DATASET is the
# one on the Hub that the blog's recipes read: for another corpus, --env DATASET=none.
set -euo pipefail
bucket=hf://buckets/$1 recipe=$2
shift 2
run=runs/$(basename "$recipe" .yaml)
dataset=${DATASET:-gpjt/fineweb-gpt2-tokens}

cp --recursive "$(dirname "$0")/../.." gpt-scratch # what is mounted can only be read
cd gpt-scratch
make environment EXTRAS=train,data
if [ "$dataset" != none ]; then
    .venv/bin/hf download --repo-type dataset "$dataset" --local-dir "data/$(basename "$dataset")"
fi
.venv/bin/hf buckets sync "$bucket" "$run"
.venv/bin/python -m training tokenize "$recipe" --output_dir "$run" "$@" # what the run began on, if it has begun

send() {
    .venv/bin/hf buckets sync "$run" "$bucket" --delete --exclude ".saving/*" --exclude ".model-*" --exclude .lock
}
.venv/bin/torchrun --standalone --nproc-per-node gpu -m training pretrain "$recipe" --output_dir "$run" "$@" &
training=$!
trap 'kill -TERM "$training"' TERM # the step is saved
# In the background, so that the signal is heard at once.
until timeout "${SECONDS_BETWEEN_COPIES:-300}" tail --pid="$training" --follow /dev/null & wait $!; do
    send || echo "the bucket cannot be reached: trying again later" >&2
done
code=0
wait "$training" || code=$?
send
exit "$code"
