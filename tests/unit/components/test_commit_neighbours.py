"""Temporary names of one output are not taken for those of another whose name begins alike."""

from __future__ import annotations

from pathlib import Path

from bmflow_components import commit


def test_publishing_an_output_leaves_the_workshop_of_a_result_that_is_called_alike(tmp_path: Path) -> None:
    """`dataset` and `dataset.json` in one folder: what is cleared away beside the one is not the other's."""
    with commit.workshop(tmp_path / "dataset.json") as work:
        made = work / "pictures"
        made.mkdir()
        (made / "one.txt").write_text("1")
        commit.publish({tmp_path / "dataset": made})
    assert (tmp_path / "dataset" / "one.txt").read_text() == "1"


def test_what_a_dead_run_left_is_cleared_away(tmp_path: Path) -> None:
    with commit.workshop(tmp_path / "result[1].json") as work:
        left = work.rename(tmp_path / f"{work.name[: -len('.part')][:-8]}deadbeef.part")
    assert left.is_dir()
    with commit.workshop(tmp_path / "result[1].json"):
        assert not left.exists()
