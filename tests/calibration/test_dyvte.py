"""Gates for `dyvte`: their labels beside a masked model, what they learn, and the file in which they travel."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from fakes import record_of
from harness import adapter, answers, close, forced_tokens, image, logits, preprocessed, request
from safetensors.torch import load_file, save_file
from torch import Tensor

from sinkbench import runner
from sinkbench.adapters.base import Adapter
from sinkbench.adapters.presets import resolve_model
from sinkbench.calibration.base import Bench, Question
from sinkbench.calibration.dyvte import TrainGates, constant_gate, held_out
from sinkbench.calibration.exits import Spoken, answer_ids, label, may_exit, speak
from sinkbench.calibration.lookup import calibrations_for
from sinkbench.calibration.run import Settings, calibrate
from sinkbench.engine.generate import Engine
from sinkbench.engine.prompt import Prompt
from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.methods import get_method
from sinkbench.methods.greedy import Greedy
from sinkbench.methods.pruning.dyvte import DyVte, fires, gate_logits
from sinkbench.record import model_identity
from sinkbench.spec import RunSpec

WORDS = ("is there a dog ?", "what do you see in the image ?", "how many red ?")
FAST = {"dyvte.width": 4, "dyvte.lr": 0.01, "dyvte.epochs": 3, "dyvte.samples": 12}


def questions(n: int = 6) -> list[Question]:
    """About an image each three."""
    shapes = ((60, 30), (30, 60), (50, 50))
    return [
        Question(request(str(i), f"<image>\n{WORDS[i % 3]}", image(i // 3, *shapes[i // 3])), ("yes", "red dog")[i % 2])
        for i in range(n)
    ]


def bench(family: str = "llava", **changes) -> Bench:
    return Bench(adapter(family), DyVte(), changes.pop("questions", questions()), **changes)


def embedded(a: Adapter, prompt: Prompt, later: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (1, L + T, d) and positions of a prompt and tokens (T,) behind it."""
    encoded = a.encode_images([*preprocessed(a, [prompt]).values()])
    ids = torch.cat((prompt.ids, later))
    places = ids == a.image_token
    embeds = a.embed(ids.masked_fill(places, 0)[None])
    embeds[0, places] = torch.cat([each.tokens for each in encoded])
    own = prompt.next_position + torch.arange(len(later))
    positions = torch.cat((prompt.positions, own.expand(len(prompt.positions), -1)), dim=1)
    return embeds, positions[:, None] if len(positions) > 1 else positions


def masked(a: Adapter, prompt: Prompt, answer: Tensor, first: int) -> tuple[Tensor, list[Tensor]]:
    """transformers' own model, whose later rows do not see image columns from a layer on.

    Returns:
        Logits (T, V) for the answer, and the layers' outputs (L, d).
    """
    embeds, positions = embedded(a, prompt, answer[:-1])
    length, outputs, hooks = embeds.shape[1], [], []
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    hidden = causal.clone()
    hidden[prompt.prefix_length :, : len(prompt)][:, prompt.roles == 2] = False

    def hide(layer: int):
        def hook(_module, args, kwargs):
            seen = hidden if layer >= first else causal
            return args, kwargs | {"attention_mask": torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]}

        return hook

    for number, layer in enumerate(a.layers):
        hooks.append(layer.register_forward_pre_hook(hide(number), with_kwargs=True))
        hooks.append(layer.register_forward_hook(lambda _module, _args, output: outputs.append(output)))
    try:
        out = a.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    states = [(output[0] if isinstance(output, tuple) else output)[0] for output in outputs]
    return a.logits(out)[0, -len(answer) :], states


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
@torch.inference_mode()
def test_labels_and_inputs_are_those_of_a_model_whose_image_is_masked(family, monkeypatch):
    a, asked = adapter(family), questions()
    monkeypatch.setattr(a.language_model.config, "_attn_implementation", "eager")
    references = []
    for question in asked:
        prompt = a.encode(question.request)
        start = a.language_model(
            inputs_embeds=(given := embedded(a, prompt, torch.empty(0, dtype=torch.int64)))[0],
            position_ids=given[1],
            use_cache=False,
        ).last_hidden_state
        answer = answer_ids(a, question.answer, a.logits(start[:, -1])[0])
        runs = [masked(a, prompt, answer, first) for first in range(1, 7)]
        references.append((prompt, answer, runs))
    monkeypatch.undo()

    tolerance = 1.0 + 2e-3  # random weights hardly depend on the image
    examples = label(bench(family, batch_size=4), asked, 0.5, tolerance)
    for row, (prompt, answer, runs) in enumerate(references):
        *blind, (plain, states) = runs
        loss = F.cross_entropy(plain.double(), answer)
        for layer, (given, _) in enumerate(blind):
            same = (given.argmax(-1) == plain.argmax(-1)).double().mean()
            ratio = F.cross_entropy(given.double(), answer) / loss
            assert abs(ratio - tolerance) > 1e-6
            assert examples.labels[row, layer] == bool(same > 0.5 and ratio < tolerance)
            behind = states[layer][prompt.prefix_length : len(prompt)]
            expected = torch.cat((behind[:-1].mean(0), behind[-1]))
            torch.testing.assert_close(examples.inputs[row, layer], expected, atol=1e-4, rtol=1e-4)
    assert examples.labels.any()
    assert not examples.labels.all()


@torch.inference_mode()
def test_an_exit_at_no_layer_is_the_plain_model():
    a, (question, *_) = adapter("llava"), questions()
    prompt, answer = a.encode(question.request), torch.tensor([7])
    features = dict(zip(preprocessed(a, [prompt]), a.encode_images([*preprocessed(a, [prompt]).values()]), strict=True))
    (spoken,) = speak(a, [prompt], [answer], features, a.info.n_layers)
    whole = logits(a, Greedy(), [question.request], forced_tokens(1, 0))[0, 0]
    assert spoken.top.tolist() == [int(whole.argmax())]
    assert spoken.loss == pytest.approx(float(F.cross_entropy(whole, answer[0])), abs=1e-4)


def test_a_label_by_hand():
    def said(loss: float, *top: int) -> Spoken:
        return Spoken(torch.tensor(top), loss)

    plain = said(1.0, 4, 5)
    assert may_exit(plain, said(1.029, 4, 5), 0.99, 1.03)
    assert not may_exit(plain, said(1.03, 4, 5), 0.99, 1.03), "below, not up to"
    assert not may_exit(plain, said(0.5, 4, 6), 0.99, 1.03), "a better loss does not make up for another token"
    assert may_exit(plain, said(0.5, 4, 6), 0.49, 1.03)
    assert not may_exit(plain, said(0.5, 4, 6), 0.5, 1.03), "above, not from"


def test_the_answer_is_spelt_as_the_model_would_begin_it():
    a = adapter("llava")
    a_, b = (a.tokenizer.convert_tokens_to_ids(word) for word in ("dog", "Dog"))
    scores = torch.zeros(2 + max(a_, b, *a.eos))
    scores[a_] = 1.0
    assert answer_ids(a, " dog ", scores).tolist() == [a_, a.eos[0]]
    with pytest.raises(SinkbenchError, match="no token that begins"):
        answer_ids(a, "§", scores)


def toy(n: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(n, 10, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, 3] > 0.3 * inputs[:, 5].abs()


def test_a_gate_learns_what_can_be_learned():
    trainer = TrainGates(lr=0.02, epochs=20)
    w1, w2 = trainer.train(*toy(400, 0), width=8, seed=0)
    assert w1.dtype == w2.dtype == torch.float16
    inputs, labels = toy(400, 1)
    right = fires(gate_logits(inputs, w1.float(), w2.float())) == labels
    assert right.double().mean() > 0.9
    assert max(labels.double().mean(), 1 - labels.double().mean()) < 0.7


def test_the_seed_decides_a_gate_and_the_weight_which_label_it_prefers():
    trainer = TrainGates(lr=0.02, epochs=3)
    first, again, other = (trainer.train(*toy(80, 0), width=8, seed=seed) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    inputs, _ = toy(200, 2)
    shares = []
    for weight in (0.05, 20.0):
        trained = TrainGates(lr=0.02, epochs=10, exit_weight=weight).train(*toy(200, 0), width=8, seed=0)
        shares.append(fires(gate_logits(inputs, *(each.float() for each in trained))).double().mean())
    assert shares[0] < shares[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [8, 9])
def test_labels_of_one_kind_make_a_gate_that_says_nothing_else(dtype, width):
    inputs = torch.randn(500, 20, generator=torch.Generator().manual_seed(3)).to(dtype)
    for fire in (True, False):
        weights = TrainGates().train(inputs, torch.full((500,), fire), width, seed=0)
        said = fires(gate_logits(inputs, *(each.to(dtype) for each in weights)))
        assert (said == fire).all()


def test_images_are_held_out_whole():
    asked = questions(9)
    out = held_out(asked, 0.34, 0)
    assert sorted(out.view(3, 3).sum(1).tolist()) == [0, 0, 3]
    assert held_out(asked, 0.01, 0).sum() == 3
    assert held_out(asked, 0.99, 0).sum() == 6
    assert {tuple(held_out(asked, 0.34, seed).tolist()) for seed in range(9)} != {tuple(out.tolist())}
    with pytest.raises(UsageError, match="about one image"):
        held_out(asked[:3], 0.2, 0)


def test_what_the_evidence_says_of_exits_is_what_the_method_does(tmp_path):
    a, asked, done = adapter("llava"), questions(9), []
    trainer = TrainGates(width=6, lr=0.01, epochs=8, tolerance=1.002, agreement=0.5, held_out=0.5)
    found = trainer.measure(bench(questions=asked, progress=lambda *step: done.append(step)))
    assert done[-1] == (45, 45)
    save_file(found.tensors["gates"], tmp_path / "gates.safetensors")
    method, evidence = DyVte(gates=str(tmp_path / "gates.safetensors")), found.evidence
    tried = [each.request for each, out in zip(asked, held_out(asked, 0.5, 0), strict=True) if out]
    held = [response.tokens_by_layer for batch in Engine(a, method).answer(tried) for response in batch]
    left_at = [tokens.index(0) if 0 in tokens else 6 for tokens in held]
    assert evidence["exits"] == [left_at.count(layer + 1) for layer in range(5)]
    assert evidence["never"] == left_at.count(6)
    assert (evidence["questions"], evidence["held_out"]) == (9, len(tried))
    assert len(evidence["accuracy"]) == len(evidence["majority"]) == len(evidence["exit_labels"]) == 5
    assert sum(evidence["exits"]) > 0
    assert evidence["right_exits"] <= sum(evidence["exits"])
    assert [row[0] for row in found.table] == ["layer", "0", "1", "2", "3", "4", "never"]


def test_evidence_of_layers_that_need_no_training():
    found = TrainGates(width=4, tolerance=1e-9).measure(bench())
    assert found.evidence["set"] == [0, 1, 2, 3, 4]
    assert found.evidence["accuracy"] == found.evidence["majority"] == [1.0] * 5
    assert found.evidence["exits"] == [0] * 5
    found = TrainGates(width=4, tolerance=1e9, agreement=0.0, epochs=1).measure(bench())
    assert found.evidence["exit_labels"][-1] > 0


def test_gates_that_never_fire_are_greedy(tmp_path):
    a, asked = adapter("llava"), [each.request for each in questions()]
    w1, w2 = constant_gate(False, 4, 128)
    save_file({"w1": w1.repeat(6, 1, 1), "w2": w2.repeat(6, 1, 1)}, tmp_path / "gates.safetensors")
    method, forced = DyVte(gates=str(tmp_path / "gates.safetensors")), forced_tokens(len(asked))
    close(logits(a, method, asked, forced), logits(a, Greedy(), asked, forced))
    assert answers(a, method, asked) == answers(a, Greedy(), asked)


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 0},
        {"width": 1},
        {"epochs": 0},
        {"lr": 0.0},
        {"agreement": 1.0},
        {"held_out": 1.0},
        {"tolerance": 0.0},
    ],
)
def test_settings_that_train_nothing_are_refused(settings):
    with pytest.raises(UsageError, match=rf"dyvte\.{next(iter(settings))}="):
        TrainGates(**settings)


def test_questions_without_image_or_answer_are_refused():
    texts = [Question(request("t", "how many ?"), "two"), Question(questions()[0].request, " ")]
    with pytest.raises(UsageError, match="both an image and a right answer"):
        TrainGates().measure(bench(questions=texts))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="module")
def found(home, model, learning):
    return calibrate(Settings("dyvte", str(model), "scenes_pope", FAST, data_dir=learning))


def gates_of(outcome):
    return outcome.file.parent / outcome.calibration.params["gates"]


def test_the_gates_lie_beside_the_calibration_and_a_run_takes_them(found, model, learning, evaluation, tmp_path):
    document = json.loads(found.file.read_text())
    name, sha256 = document["params"]["gates"], document["files"]["gates"]
    assert name == f"tiny-random.gates-{sha256[:12]}.safetensors"
    assert {path.name for path in found.file.parent.iterdir()} == {"tiny-random.json", name}
    assert {key: tuple(value.shape) for key, value in load_file(gates_of(found)).items()} == {
        "w1": (6, 4, 128),
        "w2": (6, 2, 4),
    }
    assert found.file.stat().st_size < 4000
    spec = {"model": str(model), "method": "dyvte", "task": "scenes_pope", "output": tmp_path / "runs", "limit": 4}
    (outcome,) = runner.run([RunSpec(**spec, data_dir=evaluation)])
    method = record_of(outcome.directory)["method"]
    assert method["params"] == {"gates": name}
    assert method["calibration"]["dyvte"]["files"] == {"gates": sha256}
    with pytest.raises(UsageError, match="learned from the very data"):
        runner.run([RunSpec(**spec, data_dir=learning)])


def test_gates_travel_with_their_calibration(found, model, tmp_path):
    preset = resolve_model(str(model))
    for path in found.file.parent.iterdir():
        shutil.copy(path, tmp_path)
    given = {"dyvte.calibration": str(tmp_path / found.file.name)}
    taken = calibrations_for(["dyvte"], given, preset.name, model_identity(preset))
    method = get_method("dyvte", given, preset.name, taken)
    bound = method.bind(adapter("llava").info)
    assert torch.equal(bound.gates[0], load_file(gates_of(found))["w1"])
    assert get_method("dyvte+sample", given, preset.name, taken).params()["dyvte.gates"] == gates_of(found).name


def test_lost_damaged_and_foreign_gates_are_refused(found, model, tmp_path):
    preset = resolve_model(str(model))
    for path in found.file.parent.iterdir():
        shutil.copy(path, tmp_path)
    given, copied = {"dyvte.calibration": str(tmp_path / found.file.name)}, tmp_path / gates_of(found).name

    def taken(**identity):
        return calibrations_for(["dyvte"], given, preset.name, {**model_identity(preset), **identity})

    with pytest.raises(UsageError, match="measured on other weights"):
        taken(fingerprint="0" * 64)
    content = bytearray(copied.read_bytes())
    content[-1] ^= 1
    copied.write_bytes(content)
    with pytest.raises(UsageError, match="is damaged, or another one's") as refused:
        taken()
    assert "sinkbench calibrate dyvte --model tiny-random --task scenes_pope" in refused.value.hint
    copied.unlink()
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        taken()


def test_the_seed_decides_all_gates_and_old_ones_are_removed(found, model, learning, tmp_path):
    def again(seed):
        settings = Settings(
            "dyvte", str(model), "scenes_pope", FAST, data_dir=learning, seed=seed, output=tmp_path / "mine.json"
        )
        return calibrate(settings)

    first = gates_of(again(0))
    assert first.read_bytes() == gates_of(found).read_bytes()
    second = gates_of(again(1))
    assert second.read_bytes() != gates_of(found).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"mine.json", second.name}
