import platform
import subprocess

from sinkbench import environment


def test_the_environment_names_versions_and_machine():
    env = environment.environment()
    assert env["python"] == platform.python_version()
    assert env["packages"]["sinkbench"]
    assert "torch" in env["packages"]
    assert isinstance(env["gpu"], list)


def test_a_package_that_is_absent_has_no_version(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package-anywhere",))
    assert environment.package_versions() == {"no-such-package-anywhere": None}


def test_an_installed_wheel_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "PACKAGE", tmp_path / "sinkbench")
    assert environment.git_state() == (None, None)


def test_a_checkout_is_dirty_when_tracked_sources_change_and_not_when_results_do(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    monkeypatch.setattr(environment, "PACKAGE", tmp_path / "sinkbench")
    for name in ("sinkbench", "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("one")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "results" / "file").write_text("two")
    (tmp_path / "untracked").write_text("two")
    assert environment.git_state() == (commit, False)
    (tmp_path / "sinkbench" / "file").write_text("two")
    assert environment.git_state() == (commit, True)
