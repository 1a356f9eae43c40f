"""The work folder of data in preparation: one process at a time has it, and it is gone when it is of no more use."""

import os

from training.data.work_folder import work_on


def test_a_process_that_comes_while_the_work_folder_is_removed_is_no_error(tmp_path, monkeypatch):
    folder = tmp_path / "d"
    rmdir = os.rmdir

    def come_first(path, **options):
        (tmp_path / "d.partial" / "lock").touch()
        monkeypatch.setattr(os, "rmdir", rmdir)
        rmdir(path, **options)

    with work_on(folder, print) as work:
        work.data.mkdir()
        work.complete(folder)
        monkeypatch.setattr(os, "rmdir", come_first)
    assert (tmp_path / "d.partial" / "lock").exists()
    with work_on(folder, print):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
