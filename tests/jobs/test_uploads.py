"""Uploads of jobs lie in their folder, and nowhere else."""

from pathlib import Path

import pytest

from healthd.jobs.uploads import Uploads


@pytest.mark.parametrize("job_id", ["../victim", "{folder}/victim", "..", "a/../../victim", "a\0b", ""])
def test_an_id_that_somebody_has_written_into_a_shared_queue_leads_out_of_no_folder(
    job_id: str, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    uploads = Uploads(tmp_path)
    (tmp_path / "uploads").mkdir()
    named = job_id.format(folder=tmp_path)
    assert not uploads.path(named).is_file()
    uploads.remove(named)
    assert victim.read_text() == "mine"
