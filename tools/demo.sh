#!/usr/bin/env bash
# The main job on real input: trains an expert on easy-VQA over two frozen towers, evaluates it and asks it a few questions.
# Run through `make demo`, which installs and builds what it needs. Running it again goes on where it stopped.
# Environment: VENV (.venv), BUILD (build), RUN (runs/easy-vqa).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
BUILD=${BUILD:-build}
RUN=${RUN:-runs/easy-vqa}
mmtune="$BUILD/mmtune"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() {
  printf '$ %s\n' "$*"
  "$@"
}

say "1. Data: questions about pictures of simple shapes (easy-VQA, MIT)"
"$VENV/bin/python" tools/easy_vqa.py data/easy_vqa

say "2. Training: a frozen text encoder (MiniLM-L6) and a frozen picture encoder (ours), LoRA on the picture's, late fusion"
show "$mmtune" train recipes/easy_vqa.toml --out "$RUN" --resume

say "3. Evaluation on the test split (unseen pictures; the question alone gives 0.67)"
show "$mmtune" eval "$RUN" --data data/easy_vqa/test.jsonl

say "4. A few questions about one picture"
picture=$("$VENV/bin/python" - <<'PYTHON'
import json
with open("data/easy_vqa/test.jsonl") as rows:
    print(json.loads(next(rows))["image"])
PYTHON
)
for question in "what shape is in the image?" "what color is the shape?" "is there a circle?"; do
  show "$mmtune" predict "$RUN" --image "$picture" --text "$question" --top 3
done

say "What is where, and what to try next"
cat <<TEXT
  $RUN/                the run: resolved recipe, metrics, the expert (a few hundred kB), checkpoints
  $mmtune inspect $RUN
  $mmtune cost recipes/easy_vqa.toml --compare lora,adapter,prefix,prompt,bitfit,linear
  $mmtune train recipes/easy_vqa.toml expert.0.rank=4 --out runs/rank4
  Your own data: README.md, "Your own run in five minutes"
TEXT
