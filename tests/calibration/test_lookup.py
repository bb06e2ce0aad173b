"""Which calibration a method takes, and what wins over it."""

import pytest
from calibrations import calibration

from sinkbench.calibration import lookup
from sinkbench.calibration.lookup import calibrated_models, calibrations_for, find, user_file
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.describe import describe

IDENTITY = calibration().model


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Empty folders of the user's and of shipped calibrations."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(lookup, "shipped_folder", lambda: tmp_path / "shipped")
    return tmp_path


def rates(value):
    return calibration(params={"rates_attn": [value, value], "rates_mlp": [value, value]})


def test_the_file_given_comes_before_the_users_and_the_users_before_the_shipped(folders):
    assert find("iri", "tiny") is None
    rates(0.1).write(folders / "shipped" / "iri" / "tiny.json")
    assert find("iri", "tiny").params["rates_attn"] == [0.1, 0.1]
    rates(0.2).write(user_file("iri", "tiny"))
    assert user_file("iri", "tiny") == folders / "data" / "sinkbench" / "calibrations" / "iri" / "tiny.json"
    assert find("iri", "tiny").params["rates_attn"] == [0.2, 0.2]
    rates(0.3).write(folders / "given.json")
    assert find("iri", "tiny", str(folders / "given.json")).params["rates_attn"] == [0.3, 0.3]
    assert find("iri", "tiny", "none") is None
    assert find("iri", "other") is None


def test_names_with_slashes_stay_in_the_folder():
    assert user_file("iri", "../a b").name == ".._a_b.json"


def test_files_that_fit_nothing_are_refused(folders):
    with pytest.raises(UsageError, match="cannot be read"):
        find("iri", "tiny", "nowhere.json")
    rates(0.1).write(folders / "iri.json")
    with pytest.raises(UsageError, match="holds a calibration of iri, not of var"):
        find("var", "tiny", folders / "iri.json")
    with pytest.raises(UsageError, match="greedy needs none"):
        find("greedy", "tiny", folders / "iri.json")


def test_other_weights_are_refused(folders):
    rates(0.1).write(user_file("iri", "tiny"))
    assert list(calibrations_for(["iri"], {}, "tiny", IDENTITY)) == ["iri"]
    with pytest.raises(UsageError, match="measured on other weights"):
        calibrations_for(["iri"], {}, "tiny", {**IDENTITY, "fingerprint": "0" * 64})


def test_one_that_the_command_line_replaces_whole_is_not_taken(folders):
    rates(0.1).write(user_file("iri", "tiny"))
    given = {"iri.rates_attn": [0.5, 0.5]}
    assert calibrations_for(["iri"], given, "tiny", IDENTITY)
    given["iri.rates_mlp"] = [0.5, 0.5]
    assert not calibrations_for(["iri"], given, "tiny", {**IDENTITY, "fingerprint": "0" * 64})
    assert not calibrations_for(["pai", "iri"], {"iri.calibration": "none"}, "tiny", IDENTITY)


def test_set_wins_over_profiles_these_over_calibrations_and_these_over_the_config():
    found = {"var": calibration(method="var", params={"tau": 7.0, "sink_dims": [3]})}
    assert get_method("var", model="tiny-llava").params()["tau"] == 2.0
    calibrated = get_method("var", model="tiny-llava", calibrations=found)
    assert calibrated.params()["tau"] == 7.0
    assert calibrated.params()["sink_dims"] == (3,)
    assert get_method("var", {"profile": "code"}, "tiny-llava", found).params()["tau"] == 20.0
    assert get_method("var", {"var.tau": 5}, "tiny-llava", found).params()["tau"] == 5.0
    both = get_method("pai+var", {"var.calibration": "file.json"}, "tiny-llava", found).params()
    assert both["var.tau"] == 7.0
    assert both["pai.alpha"] == get_method("pai").params()["alpha"]


def test_a_calibration_of_another_release_is_refused_by_its_parameters():
    with pytest.raises(UsageError, match=r"iri\.rates"):
        get_method("iri", model="tiny", calibrations={"iri": calibration(params={"rates": [1.0]})})


def test_only_methods_that_take_one_have_the_option():
    with pytest.raises(UsageError, match=r"unknown parameter 'pai\.calibration'"):
        get_method("pai", {"pai.calibration": "file.json"})


def test_list_methods_tells_what_is_at_hand(folders):
    assert calibrated_models("iri") == []
    rates(0.1).write(folders / "shipped" / "iri" / "tiny-llava.json")
    rates(0.1).write(user_file("iri", "mine"))
    assert describe("iri").calibrated == ("mine", "tiny-llava")
    assert describe("greedy").calibrated == ()
