"""Configs: inheritance, overrides, and errors that name the key."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.effects import OF_BRANCH, OF_TRAINED_SPEECH, ONLY_WITH
from config.fusions import IMAGES
from config.loading import dump_config, flatten, json_schema, load_config, load_stored_config
from config.schema import Config
from system.errors import InputError
from tests.support.paths import ROOT

CONFIGS = ROOT / "configs"
RECIPES = sorted(CONFIGS.glob("*.yaml"))
CHILDREN = [path for path in RECIPES if "base: " in path.read_text(encoding="utf-8")]
SMALLEST = """\
name: small
corpus: {name: iemocap, root: data, labels: iemocap4}
protocol: {split: leave-one-session-out}
model: {fusion: concat}
"""
CONTROLLERS = {  # for values of a controller, the overrides that choose them
    "cqt_only": ["model.fusion=cqt_only"],
    "mel_only": ["model.fusion=mel_only"],
    "speech_only": ["model.fusion=speech_only", "model.speech.model=model"],
    "file_only": ["model.fusion=file_only", "model.vectors=v.npz"],
    "mean": ["model.fusion=mean"],
    "sum": ["model.fusion=sum"],
    "cross_attention": ["model.fusion=cross_attention"],
    "cross_attention_contrastive": ["model.fusion=cross_attention_contrastive"],
    "gmu_contrastive": ["model.fusion=gmu_contrastive"],
    "gmu": ["model.fusion=gmu"],
    "concat": ["model.fusion=concat"],
    "plateau": ["optim.schedule=plateau"],
    "cosine": ["optim.schedule=cosine"],
    "constant": ["optim.schedule=constant"],
    "manifest": ["corpus.name=manifest", "corpus.manifest=list.csv"],
    "folder": ["corpus.name=folder"],
    "iemocap": ["corpus.name=iemocap"],
    "speaker-k-fold": ["protocol.split=speaker-k-fold"],
    "random-utterance": ["protocol.split=random-utterance"],
    "leave-one-session-out": ["protocol.split=leave-one-session-out"],
    "computed": ["train.images=computed", "features.reference=full_scale"],
    "stored": ["train.images=stored"],
    "full_scale": ["features.reference=full_scale"],
    "clip": ["features.reference=clip"],
    "dimensions": [
        *("task=dimensions", "corpus.name=manifest", "corpus.manifest=list.csv"),
        "corpus.scale=[1.0, 5.0]",
    ],
    "class": ["task=class"],
    "distribution": ["task=distribution"],
}
VALUES = {  # an allowed value for every key of ONLY_WITH
    "corpus.manifest": "list.csv",
    "corpus.scale": [1.0, 7.0],
    "protocol.folds": "ravdess_papers5",
    "corpus.layout": "{speaker}/{label}/*.wav",
    "corpus.columns": {"label": "emotion", "speaker": None},
    "corpus.label_map": {"hap": "happy", "xxx": None},
    "corpus.absolute_paths": True,
    "corpus.classes": ["neutral", "happy"],
    "corpus.unannotated_speakers": "train",
    "corpus.expect_published_counts": False,
    "protocol.n_folds": 4,
    "augment.level_db": 3.0,
    "augment.gain_db": 6.0,
    "augment.snr_db": [10.0, 30.0],
    "augment.speed": 0.1,
    "augment.pitch": 2.0,
    "model.branches": ["cqt", "mel"],
    "model.speech.model": "other",
    "model.speech.revision": "main",
    "model.speech.layers": [1, 2],
    "model.speech.precision": "float32",
    "model.speech.pooling": "attention",
    "model.speech.tokens": 8,
    "model.speech.unfrozen_layers": 2,
    "model.speech.lora_rank": 4,
    "model.speech.lora_targets": ["q_proj"],
    "model.vectors": "w.npz",
    "model.fusion_hidden_dim": 32,
    "model.gate_input": "features",
    "model.gate": "scalar",
    "model.projection": "shared",
    "model.projection_dim": 16,
    "model.attention_heads": 8,
    "model.match_parameters": True,
    "model.cqt_backbone": "test_maxvit",
    "model.mel_backbone": "mvitv2_micro",
    "model.cqt_weights": "w.safetensors",
    "model.mel_weights": "w.safetensors",
    "model.cqt_from": "runs/other",
    "model.mel_from": "runs/other",
    "loss.alpha": 0.5,
    "loss.alpha_on": "features",
    "loss.diversity": "maximised",
    "loss.temperature": 0.5,
    "loss.temperature_range": [0.01, 1.0],
    "loss.nt_xent": "cross_modal",
    "loss.nt_xent_weight": 0.5,
    "loss.nt_xent_warmup_epochs": 3,
    "loss.contrast": "cqt",
    "loss.same_class": "positives",
    "optim.optimizer.cqt": "sgd",
    "optim.optimizer.mel": "sgd",
    "optim.optimizer.speech": "sgd",
    "optim.backbone_lr_scale.cqt": 0.5,
    "optim.backbone_lr_scale.mel": 2.0,
    "optim.backbone_lr_scale.speech": 2.0,
    "optim.plateau_factor": 0.5,
    "optim.plateau_patience": 7,
    "optim.min_lr": 1e-5,
    "optim.warmup_epochs": 2.0,
}
EACH = tuple(f"optim.backbone_lr_scale.{b}" for b in ("cqt", "mel", "speech"))  # or a number
OF_TRAINED = ("model.speech.lora_targets", *OF_TRAINED_SPEECH)  # only where something is trained
WEIGHTLESS = ("model.fusion=gmu_contrastive", "loss.nt_xent_weight=0")


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a recipe and gives its path."""

    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def small(write):
    return write(SMALLEST)


def refusal(path, *overrides):
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def leaf(config, key):
    return flatten(config.model_dump())[key]


# Files, parents, overrides


def test_a_child_takes_what_it_does_not_set_from_its_parents(write):
    write(SMALLEST + "train: {epochs: 7, batch_size: 4}\n", "grandparent.yaml")
    write("base: grandparent.yaml\ntrain: {epochs: 8}\n", "parent.yaml")
    config = load_config(write("base: parent.yaml\nname: child\n", "child.yaml"))
    assert (config.name, config.train.epochs, config.train.batch_size) == ("child", 8, 4)


def test_a_parent_is_read_from_the_folder_of_the_child(write, tmp_path, monkeypatch):
    write(SMALLEST, "parent.yaml")
    child = write("base: parent.yaml\n", "child.yaml")
    monkeypatch.chdir("/")
    assert load_config(child).name == "small"


def test_a_circle_of_parents_is_refused(write):
    write("base: b.yaml\n", "a.yaml")
    message = refusal(write("base: a.yaml\n", "b.yaml"))
    assert "b.yaml -> a.yaml -> b.yaml" in message


@pytest.mark.parametrize("base", [".", '"\\0"'])
def test_a_parent_that_is_not_a_file_is_refused(write, base):
    assert "cannot read the config file" in refusal(write(f"base: {base}\n"))


def test_a_parent_that_does_not_exist_is_refused_with_who_named_it(write, tmp_path):
    write(SMALLEST, "parents.yaml")
    message = refusal(write("base: parent.yaml\n", "child.yaml"))
    assert (
        f"no config file {tmp_path / 'parent.yaml'}, which {tmp_path / 'child.yaml'} n" in message
    )
    assert message.endswith(f"as its base; did you mean {tmp_path / 'parents.yaml'}?")
    message = refusal(write("base: zzz.yaml\n", "child.yaml"))
    assert message.endswith(f"YAML files in {tmp_path}: child.yaml, parents.yaml")


def test_a_config_that_does_not_exist_is_refused_with_one_that_may_be_meant(monkeypatch):
    monkeypatch.chdir(ROOT)
    path = CONFIGS / "iemocap_gm.yaml"
    assert f"did you mean {CONFIGS / 'iemocap_gmu.yaml'}?" in refusal(path)
    assert "did you mean configs/iemocap_gmu.yaml?" in refusal(Path("iemocap_gmu.yaml"))
    assert "did you mean configs/demo_gmu.yaml?" in refusal(Path("demo_gmu"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.optimizer=adamW", "set optim.optimizer.cqt or optim.optimizer.mel or optim.opt"),
        ("model=gmu", "is a section, got 'gmu': set model.fusion or "),
        ("run.device=gpu", "run.device (in the command line): must be auto, "),
    ],
)
def test_a_value_in_the_place_of_a_section_is_told_of_its_keys(small, override, words):
    message = refusal(small, override)
    assert words in message and "Value error" not in message and "instance of" not in message


def test_a_parent_that_may_be_meant_is_named_so_that_it_is_found(write, monkeypatch):
    monkeypatch.chdir(ROOT)
    message = refusal(write("base: configs/demo_gmu.yaml\n", "child.yaml"))
    meant = message.rpartition("did you mean ")[2].removesuffix("?")
    assert load_config(write(f"base: {meant}\n", "child.yaml")).name == "demo_gmu"


def test_a_config_that_lacks_keys_is_told_of_base(write):
    message = refusal(write("name: mine\nmodel: {fusion: gmu}\n"))
    assert "corpus" in message and message.endswith("so put it into configs/ and name one")
    write("name: mine\n", "parent.yaml")
    message = refusal(write("name: mine\nmodel: {fusion: gmu}\n"))
    assert message.endswith("a config beside it gives all other keys, such as `base: parent.yaml`")
    assert "has no `base:`" not in refusal(write("base: parent.yaml\n", "child.yaml"))


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=1e-3", "optim.lr?"),
        ("optim.learning_rate=1e-3", "optim.lr?"),
        ("model.epochs=3", "train.epochs?"),
        ("fmin=30", "features.cqt.fmin or features.mel.fmin?"),
        ("optim.optimizer.cqt=adamW", "'adamw'?"),
        ("Train.epochs=3", "'train'?"),
    ],
)
def test_a_key_or_word_that_is_nearly_right_is_told(write, override, meant):
    assert f"did you mean {meant}" in refusal(write(SMALLEST), override)


def test_a_parent_that_is_not_a_name_is_refused(write):
    assert "base must be a file name, got 3" in refusal(write("base: 3\n"))


def test_overrides_win_over_files_and_later_ones_over_earlier(small):
    config = load_config(small, ["train.epochs=3", "train.epochs=4", "run.folds=[1,2]"])
    assert (config.train.epochs, config.run.folds) == (4, [1, 2])


@pytest.mark.parametrize("text", ["train.epochs", "=3", "train..epochs=3", ".epochs=3", ""])
def test_an_override_that_is_not_key_equals_value_is_refused(small, text):
    assert "section.key=value" in refusal(small, text)


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "+1E-3", "1e-03", "100e-5"])
def test_a_number_may_be_written_as_people_write_it(small, text):
    assert load_config(small, [f"optim.lr={text}"]).optim.lr == 0.001


def test_an_exponent_needs_no_sign(small):
    assert load_config(small, ["optim.lr=2e0"]).optim.lr == 2.0


def test_words_with_e_stay_words(small):
    assert load_config(small, ["run.root=run-1e3"]).run.root == "run-1e3"


def test_a_key_given_twice_is_refused(write):
    message = refusal(write(SMALLEST + "train: {epochs: 3, epochs: 4}\n"))
    assert "'epochs' twice" in message and "line 5" in message


def test_a_malicious_yaml_is_refused_and_not_executed(write, tmp_path, small):
    bad = f"!!python/object/apply:os.system ['touch {tmp_path}/executed']"
    refusal(write(f"name: {bad}\n", "bad.yaml"))
    refusal(small, f"name={bad}")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "text",
    ["&a {a: *a}", "&a [*a]", "{a: &a [1, 1], b: [*a, *a]}", "!!timestamp x", "!!bool x"]
    + ["!!int ''", "!!float ''", "{str: 1}", "{[1]: 2}", "{1: 2}", "{~: 1}", "[" * 3000, "\0"],
)
def test_odd_yaml_is_refused_with_a_message(write, small, text):
    refusal(write(text, "odd.yaml"))
    refusal(small, f"train={text}")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    text=st.one_of(
        st.text(max_size=40),
        st.text(alphabet="ab:{}[],&*!?|>-'\"#% \n\t01.e", max_size=40),
        st.sampled_from(SMALLEST.splitlines(keepends=True)).flatmap(
            lambda line: st.text(max_size=10).map(lambda noise: SMALLEST.replace(line, noise))
        ),
    )
)
def test_any_text_is_a_config_or_an_input_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(load_config(path), Config)
    except InputError:
        pass


@settings(max_examples=150, deadline=None)
@given(
    key=st.one_of(
        st.text(max_size=12),
        st.sampled_from(["name", "model", "optim.lr", "run.folds", "corpus.labels", "loss.alpha"])
        | st.sampled_from(["corpus.labels.str", "run.folds.0", "optim.optimizer.cqt.x", "str"]),
    ),
    value=st.one_of(
        st.text(max_size=20),
        st.text(alphabet="ab:{}[],&*!?-'\" 01.e", max_size=20),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.text(max_size=4), inner, max_size=2)
            ),
            max_leaves=4,
        ).map(lambda value: yaml.safe_dump(value, default_flow_style=True)),
    ),
)
def test_any_override_is_a_config_or_an_input_error(key, value):
    try:
        assert isinstance(load_config(CONFIGS / "iemocap.yaml", [f"{key}={value}"]), Config)
    except InputError:
        pass


# Errors name the key, the place and what is allowed


def test_an_unknown_key_names_path_file_and_nearest_key(write, tmp_path):
    write(SMALLEST + "loss: {tempreature: 0.1}\n", "parent.yaml")
    message = refusal(write("base: parent.yaml\n", "child.yaml"))
    assert f"loss.tempreature (in {tmp_path / 'parent.yaml'})" in message
    assert "did you mean 'temperature'?" in message


def test_an_unknown_key_of_an_override_names_the_command_line(small):
    message = refusal(small, "optim.optimizer.mell=adam")
    assert "optim.optimizer.mell (in the command line)" in message and "'mel'" in message


def test_all_errors_are_reported_at_once(small):
    message = refusal(small, "train.epochs=0", "optim.lr=x", "nmae=1")
    assert all(word in message for word in ("train.epochs", "optim.lr", "did you mean 'name'"))


@pytest.mark.parametrize("key", ["name", "corpus.root", "model.fusion", "protocol"])
def test_a_missing_key_is_named(write, key):
    values = yaml.safe_load(SMALLEST)
    section, _, name = key.partition(".")
    del (values[section] if name else values)[name or section]
    assert f"{key} " in (message := refusal(write(yaml.safe_dump(values)))) and "must be" in message


@pytest.mark.parametrize(
    "override",
    [
        "name=../up",
        "name=a/b",
        "name=''",
        "corpus.name=iemocapp",
        "corpus.labels=3",
        "corpus.labels=[1]",
        "corpus.on_bad_audio=zeros",
        "corpus.expect_published_counts=1",
        "protocol.split=random",
        "protocol.allow_speaker_overlap='yes'",
        "features.sample_rate=3999",
        "features.sample_rate=192001",
        "features.sample_rate=16000.0",
        "features.cqt.fmin=0",
        "features.cqt.n_bins=0",
        "features.cqt.bins_per_octave=1",
        "features.mel.n_fft=15",
        "features.mel.n_mels=3",
        "features.mel.fmin=-1",
        "features.top_db=0",
        "features.top_db=.inf",
        "features.top_db=1e39",  # more than float32 holds, as the three below
        "features.reference=none",
        "augment.time_mask=1",
        "augment.freq_mask=-0.1",
        "augment.mixup=-1",
        "features.seconds=0",
        "features.input_rate=3999",
        "features.cqt.filter_scale=0",
        "features.cqt.window=3",
        "features.mel.window=[kaiser, [14]]",
        "features.mel.win_length=0",
        "train.images=live",
        "model.fusion=add",
        "model.pretrained=null",
        "model.image_size=31",
        "model.image_size=1025",
        "model.image_size='64'",
        "model.dropout=1.0",
        "loss.class_weights=true",
        "loss.label_smoothing=1",
        "optim=null",
        "optim.optimizer=adam",
        "optim.optimizer.cqt=lion",
        "optim.lr=0",
        "optim.lr=.nan",
        "optim.lr=.inf",
        "optim.lr=fast",
        "optim.lr=1e39",
        "optim.backbone_lr_scale=1e39",
        "optim.weight_decay=1e39",
        "optim.weight_decay=-1e-9",
        "train.epochs=0",
        "train.epochs=true",
        "train.batch_size=1",
        "train.clip_grad_norm=0",
        "train.precision=float16",
        "run.folds=1",
        "run.folds=[0]",
        "run.folds=[]",
        "run.folds=[1,1]",
        "run.seeds=[]",
        "run.seeds=[-1]",
        "run.seeds=[3,3]",
        "run.workers=-1",
        "run.device=tpu",
    ],
)
def test_a_wrong_value_is_refused_by_its_key(small, override):
    assert override.partition("=")[0] in refusal(small, override)


@pytest.mark.parametrize(
    ("choice", "override"),
    [
        ("gmu", "model.fusion_hidden_dim=0"),
        ("gmu", "model.gate_input=fused"),
        ("gmu_contrastive", "model.projection_dim=0"),
        ("gmu_contrastive", "model.projection=both"),
        ("gmu_contrastive", "loss.alpha_on=gate"),
        ("gmu_contrastive", "loss.nt_xent_weight=-0.1"),
        ("gmu_contrastive", "loss.nt_xent_weight=101"),
        ("gmu_contrastive", "loss.nt_xent_warmup_epochs=-1"),
        ("gmu_contrastive", "loss.nt_xent_warmup_epochs=0.5"),
        ("gmu_contrastive", "loss.alpha=1.51"),
        ("gmu_contrastive", "loss.alpha=-0.1"),
        ("gmu_contrastive", "loss.temperature=0"),
        ("gmu_contrastive", "loss.temperature=1e-5"),
        ("gmu_contrastive", "loss.temperature=1e5"),
        ("gmu_contrastive", "loss.temperature_range=0.1"),
        ("gmu_contrastive", "loss.temperature_range=[0.01]"),
        ("gmu_contrastive", "loss.temperature_range=[0.0, 1.0]"),
        ("gmu_contrastive", "loss.temperature_range=[1.0, 0.01]"),
        ("gmu_contrastive", "loss.temperature_range=[0.1, 1.0]"),  # begins at 0.07
        ("gmu_contrastive", "loss.nt_xent=supervised"),
        ("gmu_contrastive", "loss.same_class=masked"),
        ("gmu_contrastive", "loss.diversity=none"),
        ("gmu", "model.gate=matrix"),
        ("cross_attention", "model.attention_heads=0"),
        ("cross_attention", "model.attention_heads=65"),
        ("sum", "model.match_parameters=1"),
        ("plateau", "optim.plateau_factor=1"),
        ("plateau", "optim.plateau_patience=-1"),
        ("plateau", "optim.min_lr=-1"),
        ("cosine", "optim.warmup_epochs=-1"),
        ("speaker-k-fold", "protocol.n_folds=2"),
        ("full_scale", "augment.level_db=61"),
        ("full_scale", "augment.level_db=-1"),
        ("computed", "augment.gain_db=61"),
        ("computed", "augment.snr_db=10"),
        ("computed", "augment.snr_db=[10]"),
        ("computed", "augment.snr_db=[-1000, 10]"),
        ("computed", "augment.snr_db=[30, 10]"),
        ("computed", "augment.speed=0.6"),
        ("computed", "augment.pitch=-1"),
    ],
)
def test_a_wrong_value_is_refused_where_its_key_applies(small, choice, override):
    message = refusal(small, *CONTROLLERS[choice], override)
    assert override.partition("=")[0] in message and "no effect" not in message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.patience=3"], "train.patience to 4"),
        (["optim.plateau_patience=5", "train.patience=6"], "train.patience to 7"),
        (["optim.min_lr=1", "optim.lr=0.1"], "optim.min_lr"),
        (["corpus.name=manifest"], "corpus.manifest must be set"),
        (["train.images=computed", "augment.gain_db=6"], "features.reference=full_scale"),
        (
            ["model.fusion=cross_attention", "model.fusion_hidden_dim=30"],
            "model.attention_heads=4 must divide model.fusion_hidden_dim=30",
        ),
        (
            ["model.fusion=gmu_contrastive", "loss.same_class=ignored", "augment.mixup=0.2"],
            "needs utterances of one class each, but augment.mixup=0.2",
        ),
        (
            ["model.fusion=gmu_contrastive", "loss.temperature_range=[0.1,1.0]"],
            "loss.temperature=0.07 must lie between",
        ),
        (
            [*WEIGHTLESS, "loss.nt_xent_warmup_epochs=2"],
            "loss.nt_xent_warmup_epochs=2 has no effect with loss.nt_xent_weight=0",
        ),
        (
            [*WEIGHTLESS, "loss.temperature_range=[0.01,1.0]"],
            "loss.temperature_range=[0.01, 1.0] has no effect with loss.nt_xent_weight=0",
        ),
        (
            [*WEIGHTLESS, "loss.alpha=0"],
            "loss.nt_xent_weight=0 and loss.alpha=0 leave nothing of the contrastive loss",
        ),
        (
            ["model.fusion=gmu_contrastive", "loss.alpha=0", "loss.diversity=maximised"],
            "loss.diversity=maximised has no effect with loss.alpha=0",
        ),
    ],
)
def test_peer_22_values_that_are_wrong_together_are_refused(small, overrides, words):
    assert words in refusal(small, *overrides)


def test_a_stored_run_may_have_values_without_effect_that_earlier_versions_took(small, tmp_path):
    chosen = ["model.fusion=gmu_contrastive", "loss.alpha=0"]
    values = load_config(small, chosen).model_dump()
    values["loss"] |= {"diversity": "maximised", "nt_xent_weight": 0.0}
    stored = tmp_path / "config.yaml"
    stored.write_text(yaml.safe_dump(values))
    assert load_stored_config(stored).loss.diversity == "maximised"
    assert "leave nothing of the contrastive loss" in refusal(stored)
    values["model"] |= {"fusion_hidden_dim": 30}
    values["model"]["fusion"], values["model"]["attention_heads"] = "cross_attention_contrastive", 4
    stored.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match="attention_heads=4 must divide"):
        load_stored_config(stored)


@pytest.mark.parametrize("key", ONLY_WITH)
def test_peer_19_a_key_without_effect_is_refused_and_a_null_that_applies_is_filled(small, key):
    only = ONLY_WITH[key]
    for value, choice in CONTROLLERS.items():
        if value not in _values_of(only.controller):
            continue
        chosen = [text for text in choice if not text.startswith(key)]
        wish = f"{key}={json.dumps(VALUES[key])}"  # which is YAML, too
        reads_no = any(key in keys for branch, keys in OF_BRANCH.items() if branch not in IMAGES)
        if value in only.values and reads_no and not value.endswith("_only"):
            message = refusal(small, *chosen, wish)
            assert f"{key} (in the command line) has no effect with model.branches=" in message
        elif value in only.values:
            if key in OF_TRAINED:
                message = refusal(small, *chosen, wish)
                assert (
                    f"{key} (in the command line) has no effect with model.speech.lora" in message
                )
                chosen.append("model.speech.lora_rank=2")
            assert leaf(load_config(small, [*chosen, wish]), key) == VALUES[key]
            no_default = ("corpus.manifest", "corpus.scale", "protocol.folds", *EACH)
            no_default += ("model.speech.model", "model.vectors", *OF_TRAINED)
            if key not in no_default:
                assert leaf(load_config(small, choice), key) == only.default
        else:
            message = refusal(small, *chosen, wish)
            assert f"{key} (in the command line) has no effect" in message
            assert f"set {only.controller} to" in message
            assert flatten(load_config(small, choice).model_dump()).get(key) is None


def test_the_keys_that_apply_to_each_choice(small):
    views = {"model.projection_dim", "loss.alpha", "loss.temperature", "loss.nt_xent"}
    views |= {"loss.diversity", "loss.same_class", "loss.alpha_on", "model.projection"}
    views |= {"loss.contrast", "loss.nt_xent_weight", "loss.nt_xent_warmup_epochs"}
    heads = {"model.attention_heads"}
    cqt = {"model.cqt_backbone", "optim.optimizer.cqt"}
    mel = {"model.mel_backbone", "optim.optimizer.mel"}
    gate = {"model.gate", "model.gate_input"}
    matching = {"model.match_parameters"}
    both = cqt | mel | {"model.branches"}
    speech = {"model.speech.model", "model.speech.precision", "model.speech.pooling"}
    applying = {
        "concat": both | matching,
        "mean": both | matching,  # fusion_hidden_dim stays null, the wider branch
        "sum": both | matching,
        "gmu": both | gate,
        "gmu_contrastive": both | gate | views,
        "cross_attention": both | gate | heads,
        "cross_attention_contrastive": both | gate | heads | views,
        "cqt_only": cqt,
        "mel_only": mel,
        "speech_only": speech,
        "file_only": {"model.vectors"},
        "plateau": {"optim.plateau_factor", "optim.plateau_patience", "optim.min_lr"},
        "cosine": {"optim.warmup_epochs", "optim.min_lr"},
        "constant": set(),
        "speaker-k-fold": {"protocol.n_folds"},
        "random-utterance": {"protocol.n_folds"},
        "leave-one-session-out": set(),
        "computed": {"augment.gain_db", "augment.speed", "augment.pitch"},  # no noise
        "stored": set(),
        "full_scale": {"augment.level_db"},
        "clip": set(),
    }
    for choice, keys in applying.items():
        leaves = flatten(load_config(small, CONTROLLERS[choice]).model_dump())
        controller = CONTROLLERS[choice][0].partition("=")[0]
        mine = [key for key, only in ONLY_WITH.items() if only.controller == controller]
        assert {key for key in mine if leaves.get(key) is not None} == keys


def _values_of(controller):
    if controller == "task":
        return Config.model_fields["task"].annotation.__args__
    section, name = controller.split(".")
    annotation = Config.model_fields[section].annotation.model_fields[name].annotation
    return annotation.__args__


def test_a_single_branch_may_leave_out_what_the_other_reads(small):
    config = load_config(small, ["model.fusion=cqt_only", "model.cqt_backbone=test_vit"])
    assert (config.model.cqt_backbone, config.model.mel_backbone) == ("test_vit", None)
    assert config.optim.optimizer.model_dump(exclude_none=True) == {"cqt": "adam", "head": "adam"}
    message = refusal(small, "model.fusion=mel_only", "optim.optimizer.cqt=sgd")
    assert "optim.optimizer.cqt (in the command line) has no effect with model.fusion=mel_only" in (
        message
    )


@pytest.mark.parametrize(
    "wish", ["features.seconds=3", "features.cqt.n_bins=60", "train.images=computed"]
)
def test_a_key_of_images_is_refused_where_none_is_read(small, wish):
    key = wish.partition("=")[0]
    alone, joined = CONTROLLERS["speech_only"], ["model.branches=[speech, file]"]
    joined += [*CONTROLLERS["speech_only"][1:], *CONTROLLERS["file_only"][1:]]
    for choice, said in ((alone, "model.fusion=speech_only"), (joined, "model.branches=[")):
        assert f"{key} (in the command line) has no effect with {said}" in (
            refusal(small, *choice, wish)
        )
        assert "train.normalize (in the command line) has no effect with" in (
            refusal(small, *choice, "train.normalize=false")
        )
        assert load_config(small, choice).features == Config.model_fields["features"].default
    mixed = ["model.branches=[mel, speech]", *CONTROLLERS["speech_only"][1:]]
    assert load_config(small, [*mixed, wish, "train.normalize=false"])


OF_BACKBONES = {  # that a speech model has, too, where a part of it is trained
    "optim.backbone_lr_scale": 0.1,
    "train.backbone_batch": 4,
    "train.gradient_checkpointing": True,
}
OF_IMAGES = {  # of no other sources
    "model.pretrained": False,
    "model.drop_path_rate": 0.1,
    "train.channels_last": False,
    "train.compile": True,
    "augment.level_db": 3.0,
    "augment.gain_db": 3.0,
}


@pytest.mark.parametrize("key", [*OF_IMAGES, *OF_BACKBONES])
def test_a_key_of_backbones_is_refused_where_none_reads_an_image(small, key):
    wish = f"{key}={json.dumps((OF_IMAGES | OF_BACKBONES)[key])}"
    alone, own = CONTROLLERS["speech_only"], CONTROLLERS["file_only"]
    joined = ["model.branches=[speech, file]", *alone[1:], *own[1:]]
    for choice in (alone, own, joined):
        message = refusal(small, *choice, wish)
        assert f"{key} (in the command line) has no effect with model." in message
        assert "\n" not in message and "remove it or set it to " in message
        idle = json.loads(message.partition("set it to ")[2].partition(",")[0])
        assert leaf(load_config(small, [*choice, f"{key}={json.dumps(idle)}"]), key) == idle
    for choice in (alone, joined):
        trained = [*choice, "model.speech.lora_rank=2", wish]
        if key in OF_BACKBONES:
            assert leaf(load_config(small, trained), key) == OF_BACKBONES[key]
        else:
            assert f"{key} (in the command line) has no effect" in refusal(small, *trained)


def test_a_run_without_images_of_an_earlier_version_is_read(small, tmp_path):
    old = {**OF_IMAGES, **OF_BACKBONES, "train.normalize": False}
    del old["train.compile"]  # beside gradient_checkpointing
    old |= {"augment.level_db": 0.0, "features.reference": "full_scale"}  # as it was filled in
    stored = tmp_path / "config.yaml"
    for choice in ("file_only", "speech_only"):
        values = load_config(small, CONTROLLERS[choice]).model_dump()
        for key, value in old.items():
            section, name = key.split(".")
            values[section][name] = value
        if choice == "speech_only":  # before a part of it could be trained
            del values["model"]["speech"]["lora_rank"], values["model"]["speech"]["unfrozen_layers"]
        stored.write_text(yaml.safe_dump(values))
        assert load_stored_config(stored) == load_config(small, CONTROLLERS[choice])
        assert refusal(stored).count(" has no effect with ") == len(old)
    values["model"]["speech"]["lora_rank"] = 2
    stored.write_text(yaml.safe_dump(values))
    found = flatten(load_stored_config(stored).model_dump())
    assert {key: found[key] for key in OF_BACKBONES} == OF_BACKBONES
    assert found["model.pretrained"] and found["train.normalize"] is True
    values["train"]["normalize"] = "speaker"
    stored.write_text(yaml.safe_dump(values))
    assert load_stored_config(stored).train.normalize == "speaker"


# All keys without effect in one message


def test_all_keys_without_effect_are_said_at_once(write, small, tmp_path):
    child = write("base: recipe.yaml\nloss: {alpha: 0.5}\noptim: {schedule: cosine}\n", "c.yaml")
    wishes = ["optim.plateau_factor=0.5", "optim.plateau_patience=2", "run.compile_cache=graphs"]
    file, line = tmp_path / "c.yaml", "the command line"
    assert refusal(child, *wishes).split("\n  ") == [
        "the configuration is wrong:",
        f"loss.alpha (in {file}) has no effect with model.fusion=concat: remove it or set it to "
        "null, or set model.fusion to gmu_contrastive or cross_attention_contrastive",
        f"optim.plateau_factor (in {line}) has no effect with optim.schedule=cosine: remove it or "
        "set it to null",
        f"optim.plateau_patience (in {line}) has no effect with optim.schedule=cosine: remove it "
        "or set it to null",
        "or set optim.schedule to plateau, with which these 2 have one",
        "run.compile_cache=graphs has no effect with train.compile=false: set it to null, or "
        "train.compile to true",
    ]


def test_what_another_key_outweighs_is_said_with_the_rest(small):
    wishes = ["optim.warmup_epochs=2", "model.from_seed=1", "train.images=computed"]
    wishes += ["augment.gain_db=3", *WEIGHTLESS, "loss.nt_xent_warmup_epochs=2"]
    message = refusal(small, *wishes)
    for key in ("optim.warmup_epochs (in", "model.from_seed=1", "augment.gain_db=3"):
        assert message.count(key) == 1 and f"{key}" in message
    assert "loss.nt_xent_warmup_epochs=2 has no effect with loss.nt_xent_weight=0" in message
    message = refusal(small, *wishes[:1], *wishes[2:4], "model.fusion=file_only", "model.vectors=v")
    assert message.count("augment.gain_db") == 1  # once, though the level is removed, too


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    choice=st.sampled_from([*CONTROLLERS.values()]),
    keys=st.lists(st.sampled_from([*VALUES, *OF_IMAGES, *OF_BACKBONES]), unique=True, max_size=12),
)
def test_a_config_is_right_once_all_that_is_said_is_followed(small, choice, keys):
    given = {**VALUES, **OF_IMAGES, **OF_BACKBONES}
    wishes = [f"{key}={json.dumps(given[key])}" for key in keys]
    try:
        load_config(small, [*choice, *wishes])
        return
    except InputError as error:
        lines = str(error).split("\n  ")
    said = {line.split()[0]: line for line in lines if ") has no effect with" in line}
    if not said:
        return  # wrong for another reason
    for key, line in said.items():
        idle = line.partition("set it to ")[2].partition(", or set")[0]
        wishes.append(f"{key}={idle}")
    try:
        load_config(small, [*choice, *wishes])
    except InputError as error:
        assert "has no effect with" not in str(error)


def test_keys_without_effect_of_several_corpora_are_said_at_once(write):
    write(SMALLEST, "parent.yaml")
    child = write(
        "base: parent.yaml\nname: both\nprotocol: {split: cross-corpus, n_folds: 4}\ncorpus:\n"
        "- {name: iemocap, root: a, labels: iemocap4, label_map: {neu: sad}, manifest: m.csv}\n"
        "- {name: esd, root: b, labels: esd5, layout: '{label}/*', role: test}\n",
        "child.yaml",
    )
    lines = refusal(child).split("\n  ")[1:]
    assert [line.split(" (in ")[0] for line in lines] == [
        "protocol.n_folds",
        "iemocap: corpus.manifest",
        "iemocap: corpus.label_map",
        "esd: corpus.layout",
    ]


# A rate for each branch


SCALE = "optim.backbone_lr_scale"


@pytest.mark.parametrize(
    ("overrides", "cqt", "mel"),
    [
        ([], 1.0, 1.0),
        ([f"{SCALE}=0.1"], 0.1, 0.1),
        ([f"{SCALE}={{cqt: 0.5, mel: 2}}"], 0.5, 2.0),
        ([f"{SCALE}={{cqt: 0.5}}"], 0.5, 1.0),
        ([f"{SCALE}={{}}"], 1.0, 1.0),
        ([f"{SCALE}.mel=2"], 1.0, 2.0),
        ([f"{SCALE}.mel=2", f"{SCALE}.cqt=0.5"], 0.5, 2.0),
        ([f"{SCALE}=0.1", f"{SCALE}.mel=2"], 0.1, 2.0),
        ([f"{SCALE}=0.1", f"{SCALE}.mel=null"], 0.1, 1.0),
        ([f"{SCALE}={{cqt: 0.5, mel: 2}}", f"{SCALE}.mel=3"], 0.5, 3.0),
        ([f"{SCALE}={{cqt: 0.5, mel: 2}}", f"{SCALE}.mel=null"], 0.5, 1.0),
        ([f"{SCALE}.mel=2", f"{SCALE}=0.1"], 0.1, 0.1),
        ([f"{SCALE}.mel=2", f"{SCALE}=0.1", f"{SCALE}.cqt=5"], 5.0, 0.1),
    ],
)
def test_a_rate_of_one_branch_leaves_the_other_what_it_had(small, write, overrides, cqt, mel):
    config = load_config(small, overrides)
    scales = config.optim.branch_lr_scales()
    assert (scales["cqt"], scales["mel"]) == (cqt, mel)
    assert load_config(write(dump_config(config), "dumped.yaml")) == config


def test_a_rate_of_one_branch_in_a_child_leaves_its_parents_number_to_the_other(write):
    write(SMALLEST + "optim: {backbone_lr_scale: 0.05}\n", "parent.yaml")
    child = write("base: parent.yaml\noptim: {backbone_lr_scale: {mel: 2}}\n", "child.yaml")
    scales = load_config(child).optim.branch_lr_scales()
    assert (scales["cqt"], scales["mel"]) == (0.05, 2.0)
    assert load_config(write("base: parent.yaml\n")).optim.backbone_lr_scale == 0.05


@pytest.mark.parametrize(("one", "other"), [("cqt", "mel"), ("mel", "cqt")])
def test_a_single_branch_takes_a_number_or_its_own_rate_and_no_other(small, one, other):
    fusion = f"model.fusion={one}_only"
    for overrides in ([f"{SCALE}=3"], [f"{SCALE}.{one}=3"], [f"{SCALE}=0.1", f"{SCALE}.{one}=3"]):
        assert load_config(small, [fusion, *overrides]).optim.branch_lr_scales()[one] == 3.0
    message = refusal(small, fusion, f"{SCALE}.{other}=2")
    assert f"{SCALE}.{other} (in the command line) has no effect with {fusion}: remove" in message
    config = load_config(small, [fusion, f"{SCALE}=0.1", f"{SCALE}.{other}=null"])
    assert config.optim.branch_lr_scales()[one] == 0.1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"{SCALE}=fast", f"{SCALE} (in the command line): Input should be a valid number"),
        (f"{SCALE}=null", f"{SCALE} (in the command line): Input should be a valid number"),
        (f"{SCALE}=[1, 2]", f"{SCALE} (in the command line): Input should be a valid number"),
        (f"{SCALE}=0", f"{SCALE} (in the command line): Input should be greater than 0"),
        (f"{SCALE}.cqt=0", f"{SCALE}.cqt (in the command line): Input should be greater than 0"),
        (f"{SCALE}.mel=fast", f"{SCALE}.mel (in the command line): Input should be a valid num"),
        (f"{SCALE}.head=2", f"{SCALE}.head (in the command line): no such key; did you mean"),
        (f"{SCALE}.mle=2", f"{SCALE}.mle (in the command line): no such key; did you mean 'mel'"),
        ("train.backbone_lr_scale=2", f"no such key; did you mean {SCALE}?"),
    ],
)
def test_a_wrong_rate_is_refused_in_one_line(small, override, words):
    message = refusal(small, override)
    assert words in message and message.count("\n") == 1 and "(a number)" not in message


# The recipes of the repository


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_dumped_recipe_loads_to_the_same_config(path, write):
    config = load_config(path)
    assert load_config(write(dump_config(config))) == config


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_the_schema_for_editors(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"


def test_the_schema_of_editors_is_current():
    assert (CONFIGS / "schema.json").read_text(encoding="utf-8") == json_schema(), (
        "run: python -m scripts.make_schema"
    )


@pytest.mark.parametrize("path", CHILDREN, ids=lambda path: path.stem)
def test_a_child_recipe_holds_differences_only(path):
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    parent = flatten(load_config(path.parent / own.pop("base")).model_dump())
    child = flatten(load_config(path).model_dump())
    if isinstance(own.get("corpus"), list):  # a section of another form
        assert len(own.pop("corpus")) > 1 and parent["corpus.name"] != child["corpus.name"]
    assert [key for key in flatten(own) if child[key] == parent[key]] == []


@pytest.mark.parametrize(
    "name", ["iemocap", "iemocap_gmu", "iemocap_gmu_contrastive", "esd", "esd_gmu_contrastive"]
)
def test_the_recipes_train_as_published(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    assert config.optim.lr == 0.02 and config.optim.schedule == "plateau"
    optimizers = config.optim.optimizer.model_dump(exclude_none=True)
    assert optimizers == {"cqt": "adam", "mel": "radam", "head": "adam"}
    assert (config.optim.plateau_factor, config.optim.plateau_patience) == (0.1, 2)
    assert (config.optim.min_lr, config.train.epochs, config.train.batch_size) == (1e-6, 50, 16)
    assert config.model.cqt_backbone == "maxvit_base_tf_224"
    assert config.model.mel_backbone == "mvitv2_base"
    assert config.model.pretrained and config.model.image_size == 224


@pytest.mark.parametrize(
    ("name", "rate"), [("iemocap", 16_000), ("esd", 16_000), ("ravdess", None)]
)
def test_corpora_are_read_at_the_rate_they_were_recorded_at(name, rate):
    features = load_config(f"configs/{name}.yaml").features
    assert (features.sample_rate, features.input_rate) == (44_100, rate)


FINE_TUNING = [
    (c, f) for c in ("iemocap", "esd", "ravdess") for f in ("", "_gmu", "_gmu_contrastive")
]


@pytest.mark.parametrize(("corpus", "fusion"), FINE_TUNING)
def test_the_fine_tuning_recipes_differ_from_the_published_ones_in_the_same_keys(corpus, fusion):
    published = flatten(load_config(CONFIGS / f"{corpus}{fusion}.yaml").model_dump())
    found = flatten(load_config(CONFIGS / f"{corpus}_finetune{fusion}.yaml").model_dump())
    assert found["name"] == f"{corpus}_finetune{fusion or '_concat'}"
    differ = {key: found[key] for key in found if found[key] != published[key]}
    fmax = {} if corpus == "ravdess" else {"features.mel.fmax": 8000.0}  # at 16 kHz
    assert {key: differ.pop(key) for key in fmax} == fmax
    assert found["features.mel.fmax"] == fmax.get("features.mel.fmax")
    assert set(differ) == {
        *("name", "model.drop_path_rate", "loss.label_smoothing"),
        *("augment.freq_mask", "augment.time_mask", "augment.time_shift"),
        *(f"optim.optimizer.{part}" for part in ("cqt", "mel", "head")),
        *("optim.lr", "optim.backbone_lr_scale", "optim.weight_decay", "optim.schedule"),
        *("optim.warmup_epochs", "optim.plateau_factor", "optim.plateau_patience"),
        *("train.epochs", "train.clip_grad_norm", "train.precision"),
    }
    assert 0 < differ["model.drop_path_rate"] < 0.5 and differ["augment.time_mask"] > 0


@pytest.mark.parametrize(("corpus", "alpha"), [("iemocap", 0.3), ("esd", 0.5)])
@pytest.mark.parametrize("recipe", ["", "_finetune"])
def test_the_contrastive_recipes_have_the_published_weights(corpus, recipe, alpha):
    config = load_config(CONFIGS / f"{corpus}{recipe}_gmu_contrastive.yaml")
    assert (config.loss.nt_xent_weight, config.loss.nt_xent_warmup_epochs) == (1.0, 0)
    assert (config.loss.alpha, config.loss.temperature) == (alpha, 0.07)
    assert config.loss.nt_xent == "simclr" and config.model.fusion == "gmu_contrastive"


def test_peer_01_no_recipe_lets_speakers_overlap():
    for path in RECIPES:
        protocol = load_config(path).protocol
        assert protocol.split != "random-utterance" and not protocol.allow_speaker_overlap


def test_a_config_does_not_change_after_loading(small):
    with pytest.raises(ValueError, match="frozen"):
        load_config(small).train.epochs = 3
