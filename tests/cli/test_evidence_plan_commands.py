"""The plans under evidence/: every row's recipe is there, and its overrides are understood."""

import tomllib
from pathlib import Path

import pytest
from training_support import mmtune

ROOT = Path(__file__).resolve().parents[2]
PLANS = sorted((ROOT / "evidence").glob("*.toml"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_rows_can_be_trained(path, tmp_path):
    plan = tomllib.loads(path.read_text(encoding="utf-8"))
    assert {"title", "test", "metrics", "seeds", "row"} <= plan.keys()
    names = [row["name"] for row in plan["row"]]
    assert len(set(names)) == len(names)
    for row in plan["row"]:
        assert row.get("like", names[0]) in names, row["name"]
        for trial in [plan.get("trial", [])] if row is plan["row"][0] else [[]]:
            changes = [*plan.get("set", []), *row.get("set", []), "train.lr=1e-3", *trial, "train.seed=1"]
            # Keys and values are checked before data is looked for.
            done = mmtune("train", ROOT / row["recipe"], *changes, "data.train=/nonexistent/data.jsonl", "--out", tmp_path / "run")
            assert done.returncode == 1 and "does not exist" in done.stderr, (row["name"], done.stderr)
