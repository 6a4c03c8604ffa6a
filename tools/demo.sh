#!/usr/bin/env bash
# The main job on real input: trains an expert on easy-VQA over two frozen towers, evaluates it and asks it a few questions.
# Run through `make demo`, which installs and builds what it needs. Running it again goes on where it stopped.
# Environment: VENV (.venv), BUILD (build), RUN (runs/easy-vqa-mope).
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
BUILD=${BUILD:-build}
RUN=${RUN:-runs/easy-vqa-mope}
mmtune="$BUILD/mmtune"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() {
  printf '$ %s\n' "$*"
  "$@"
}

say "1. Data: questions about pictures of simple shapes (easy-VQA, MIT)"
"$VENV/bin/python" tools/easy_vqa.py data/easy_vqa

say "2. Training: MoPE. The picture makes the prompts of the frozen text encoder (MiniLM-L6); LoRA on the frozen picture encoder (ours)"
show "$mmtune" train recipes/easy_vqa_mope.toml --out "$RUN" --resume

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

say "5. Which prompt expert fires for what: a page to open in a browser"
show "$mmtune" explain "$RUN" --data data/easy_vqa/test.jsonl --out "$RUN/report.html" --limit 1000

say "What is where, and what to try next"
cat <<TEXT
  $RUN/           the run: resolved recipe, metrics, the experts, checkpoints
  $RUN/report.html
  $mmtune inspect $RUN
  $mmtune train recipes/easy_vqa.toml --out runs/easy-vqa          the same towers without MoPE, fused late
  $mmtune train recipes/easy_vqa_mope.toml expert.0.experts=16 --out runs/mope16
  Your own data: README.md, "Your own run in five minutes"
TEXT
