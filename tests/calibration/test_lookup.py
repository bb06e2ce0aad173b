"""Which calibration a method takes, and what wins over it."""

import pytest
from calibrations import calibration

from sinkbench.calibration import lookup
from sinkbench.calibration.lookup import calibrated_models, calibrations_for, find, user_file
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.describe import describe
from sinkbench.methods.facts import ModelInfo

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
    assert calibrated_models("iri") == {}
    rates(0.1).write(folders / "shipped" / "iri" / "tiny-llava.json")
    rates(0.1).write(user_file("iri", "mine"))
    assert describe("iri").calibrated == ("mine", "tiny-llava")
    assert describe("iri").calibrated_for == {}
    assert describe("greedy").calibrated == ()


def trend(host, b):
    params = {"host": host, "form": "exp", "trend": [b], "canvas": "none", "padding": 0.5}
    return calibration(method="debias", params={key: value for key, value in params.items() if value != ""})


def taken(method, **given):
    """b of the trend that a run takes from a calibration of the model tiny; None where it takes none."""
    params = {f"debias.{key}": value for key, value in given.items()}
    found = calibrations_for(method.split("+"), params, "tiny", IDENTITY)
    return found["debias"].params["trend"][0] if found else None


def test_a_calibration_for_one_methods_scores_has_it_in_its_name():
    assert user_file("debias", "tiny", "himap").name == "tiny.himap.json"
    assert user_file("debias", "../a.b", "himap").name == ".._a.b.himap.json"
    assert trend("himap", 1.0).summary()["name"] == "debias/tiny.himap"


def test_a_composition_takes_the_one_for_its_host_the_users_first(folders):
    shipped = folders / "shipped" / "debias"
    assert taken("himap+debias") is None
    trend("himap", 1.0).write(shipped / "tiny.himap.json")
    trend("fastv", 2.0).write(shipped / "tiny.fastv.json")
    assert taken("himap+debias") == taken("debias+himap") == taken("sample+himap+debias") == 1.0
    assert taken("fastv+debias") == 2.0
    assert taken("sparsevlm+debias") is taken("debias") is None
    trend("himap", 3.0).write(user_file("debias", "tiny", "himap"))
    assert (taken("himap+debias"), taken("fastv+debias")) == (3.0, 2.0)
    assert taken("himap+debias", calibration="none") is None
    assert taken("himap+debias", calibration=str(shipped / "tiny.fastv.json")) == 2.0


def test_a_host_that_is_given_counts_more_than_the_composition(folders):
    for host, b in (("himap", 1.0), ("fastv", 2.0)):
        trend(host, b).write(user_file("debias", "tiny", host))
    assert taken("himap+debias", host="fastv") == 2.0
    # A profile gives all but what images are put on.
    assert taken("himap+debias", profile="fastv") == 2.0
    assert taken("himap+debias", profile="fastv", host="himap") == 1.0
    assert taken("himap+debias", host="") == 1.0
    assert taken("himap+debias", profile="fastv", canvas="none") is None
    with pytest.raises(UsageError, match="debias has no profile 'fast'"):
        taken("himap+debias", profile="fast")


def test_a_file_without_a_host_in_its_name_is_taken_where_its_host_fits(folders):
    trend("fastv", 1.0).write(user_file("debias", "tiny"))
    assert taken("fastv+debias") == taken("debias") == 1.0
    assert taken("himap+debias") is None
    trend("himap", 2.0).write(folders / "shipped" / "debias" / "tiny.himap.json")
    assert taken("himap+debias") == 2.0
    trend("fastv", 3.0).write(user_file("debias", "tiny", "fastv"))
    assert taken("fastv+debias") == 3.0
    trend("", 4.0).write(user_file("debias", "tiny"))
    assert taken("himap+debias") == 4.0


def test_what_is_missing_or_of_another_host_is_said_with_the_command_that_measures_it(folders):
    info = ModelInfo("tiny", n_layers=4, n_heads=4, n_kv_heads=2, hidden_size=64)
    trend("fastv", 1.0).write(user_file("debias", "tiny", "fastv"))
    found = calibrations_for(["himap", "debias"], {}, "tiny", IDENTITY)
    with pytest.raises(UsageError, match=r"debias\.trend is not known of tiny for himap's scores") as caught:
        get_method("himap+debias", {}, "tiny", found).bind(info)
    command = "sinkbench calibrate debias --model {} --task scenes_pope --set debias.host=himap"
    assert command.format("tiny") in caught.value.hint
    given = {"debias.calibration": str(user_file("debias", "tiny", "fastv"))}
    found = calibrations_for(["himap", "debias"], given, "tiny", IDENTITY)
    with pytest.raises(UsageError, match=r"debias\.trend is of fastv's scores, and himap ranks by others") as caught:
        get_method("himap+debias", given, "tiny", found)
    assert command.format("NAME") in caught.value.hint
    assert get_method("himap+debias", {**given, "debias.host": ""}, "tiny", found).params()["debias.trend"] == (1.0,)
    trend("himap", 1.0).write(user_file("debias", "tiny", "himap"))
    with pytest.raises(UsageError, match="measured on other weights") as caught:
        calibrations_for(["himap", "debias"], {}, "tiny", {**IDENTITY, "fingerprint": "0" * 64})
    assert f"{command.format('tiny')}. " in caught.value.hint


def test_a_part_without_a_host_gets_that_of_its_composition():
    given = {"debias.trend": [1.0]}
    assert get_method("tokencarve+debias", given).params()["debias.host"] == "tokencarve"
    assert get_method("tokencarve+debias", {**given, "debias.host": ""}).params()["debias.host"] == ""
    assert get_method("debias", given).params()["host"] == ""


def test_list_methods_tells_hosts_with_the_models_and_never_as_such(folders):
    for model, host in (("internvl3.5-8b", "himap"), ("tiny-llava", "himap"), ("tiny-llava", "fastv")):
        trend(host, 1.0).write(user_file("debias", model, host))
    trend("fastv", 1.0).write(folders / "shipped" / "debias" / "tiny-llava.fastv.json")
    trend("fastv", 1.0).write(user_file("debias", "qwen2.5-vl-7b"))
    known = describe("debias")
    assert known.calibrated == ("internvl3.5-8b", "qwen2.5-vl-7b", "tiny-llava")
    assert known.calibrated_for == {"internvl3.5-8b": ("himap",), "tiny-llava": ("fastv", "himap")}
