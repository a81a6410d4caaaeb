"""A speech model of which a part is trained: adapters by hand, top layers, what is saved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.settings import ModelSettings
from models.speech import Frames, load_speech_model
from models.speech_states import SpeechModel
from models.speech_tuning import TunedSpeech, Waves, linear_layers
from system.errors import InputError
from tests.support.speech_models import KINDS, save_model

pytest.importorskip("peft")
ATTENTION = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def speech_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SpeechModel]:
    root = tmp_path_factory.mktemp("speech")
    return {kind: load_speech_model(str(save_model(root / kind, kind))) for kind in KINDS}


def settings(**values) -> ModelSettings:
    return ModelSettings(n_classes=2, fusion="speech_only", speech_shape=(3, 32), **values)


def waves(*lengths: int) -> Waves:
    rng = np.random.default_rng(0)
    rows = [torch.from_numpy(rng.normal(size=n).astype(np.float32)) for n in lengths]
    return Waves(nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(lengths))


def filled(tuned: TunedSpeech) -> TunedSpeech:
    """Give adapters numbers: their second matrix is zero at first."""
    torch.manual_seed(1)
    for parameter in tuned.trained():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return tuned.eval()


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_adapter_changes_nothing_at_first(speech_models, kind: str) -> None:
    model, some = speech_models[kind], waves(9000, 16000)
    tuned = TunedSpeech(model, settings(speech_lora_rank=3)).eval()
    torch.testing.assert_close(tuned(some), model.means(some.alone()))
    changed = filled(tuned)(some) - model.means(some.alone())
    assert bool(changed.abs().max() > 1e-3)
    n_trained = sum(parameter.numel() for parameter in tuned.trained())
    n_adapted = len([n for n, _ in tuned.named_modules() if n.endswith(".lora_A.default")])
    assert n_trained == n_adapted * 3 * (32 + 48)  # A (R x E) and B (D x R), 32 and 48 units


@pytest.mark.parametrize("kind", ["wav2vec2-layer", "hubert-group", "whisper"])
def test_an_adapted_model_is_a_plain_one_with_other_weights(tmp_path: Path, kind: str) -> None:
    """The reference has W + B A in the place of W, and nothing of peft."""
    folder = str(save_model(tmp_path / kind, kind))
    plain, model = load_speech_model(folder), load_speech_model(folder)
    tuned = TunedSpeech(model, settings(speech_lora_rank=2, speech_lora_targets=ATTENTION))
    filled(tuned)
    adapters = dict(tuned.model.network.named_parameters())
    with torch.no_grad():
        for name, weight in plain.network.named_parameters():
            layer = name.removesuffix(".weight")
            if f"{layer}.lora_A.default.weight" in adapters:
                thin, wide = (adapters[f"{layer}.lora_{x}.default.weight"] for x in "AB")
                weight += wide @ thin
    some = waves(12000, 7000, 16000)
    torch.testing.assert_close(tuned(some), plain.means(some.alone()), atol=1e-5, rtol=1e-4)


def test_adapters_without_effect_are_refused(speech_models) -> None:
    values = {"speech_lora_rank": 2, "speech_lora_targets": ["q_proj", "output_dense"]}
    with pytest.raises(
        InputError,
        match=r"adapter at q_proj has no effect .* Name .*: intermediate_dense, output_dense",
    ):
        TunedSpeech(speech_models["wavlm-layer"], settings(**values))
    with pytest.raises(InputError, match=r"adapter at q_proj, v_proj has no effect"):
        TunedSpeech(
            speech_models["wavlm-group"],
            settings(speech_lora_rank=2, speech_lora_targets=ATTENTION),
        )
    TunedSpeech(speech_models["hubert-layer"], settings(**values))


def test_there_must_be_such_layers(speech_models) -> None:
    model = speech_models["hubert-layer"]
    words = r"the linear layers of .* are intermediate_dense, k_proj, .*, not query"
    with pytest.raises(InputError, match=words):
        TunedSpeech(model, settings(speech_lora_rank=2, speech_lora_targets=["query"]))
    with pytest.raises(InputError, match=r"unfrozen_layers=3: .* has 2 layers; give a smaller"):
        TunedSpeech(model, settings(speech_unfrozen_layers=3))
    assert linear_layers(speech_models["whisper"].network)[:2] == ["fc1", "fc2"]


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("kind", ["wavlm-layer", "hubert-batch-norm", "wav2vec2-conformer"])
@pytest.mark.parametrize("part", [{"speech_lora_rank": 2}, {"speech_unfrozen_layers": 1}])
def test_a_recording_has_its_states_alone_and_in_a_batch(
    speech_models, kind: str, part, pooling: str
) -> None:
    tuned = filled(TunedSpeech(speech_models[kind], settings(speech_pooling=pooling, **part)))
    lengths = (9000, 16000, 5000)
    together, every = tuned(waves(*lengths)), waves(*lengths)
    for i, n in enumerate(lengths):
        alone = tuned(Waves(every.samples[i : i + 1, :n], torch.tensor([n])))
        if pooling == "mean":
            torch.testing.assert_close(together[i], alone[0], atol=2e-5, rtol=1e-4)
        else:
            assert isinstance(together, Frames) and together.lengths[i] == alone.lengths[0]
            own = together.hidden[i, : alone.lengths[0]]
            torch.testing.assert_close(own, alone.hidden[0], atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("part", [{"speech_lora_rank": 2}, {"speech_unfrozen_layers": 1}])
def test_what_is_saved_is_what_is_trained(speech_models, part) -> None:
    model, some = speech_models["wavlm-layer"], waves(8000)
    tuned = filled(TunedSpeech(model, settings(**part)))
    saved = {name: value.clone() for name, value in tuned.state_dict().items()}
    assert saved.keys() == {n for n, p in tuned.named_parameters() if p.requires_grad}
    fresh = TunedSpeech(model, settings(**part)).eval()
    assert not torch.equal(fresh(some), tuned(some))
    fresh.load_state_dict(saved)
    assert torch.equal(fresh(some), tuned(some))
    missing = dict(list(saved.items())[1:])
    with pytest.raises(RuntimeError, match="Missing key"):
        fresh.load_state_dict(missing)


@pytest.mark.parametrize("kind", ["wavlm-layer", "hubert-batch-norm", "whisper"])
@pytest.mark.parametrize("part", [{"speech_lora_rank": 2}, {"speech_unfrozen_layers": 1}])
def test_networks_share_the_memory_of_what_is_not_trained(speech_models, kind: str, part) -> None:
    model, some = speech_models[kind], waves(9000, 16000)
    first, second = (TunedSpeech(model, settings(**part)) for _ in range(2))
    tensors = [{**dict(t.named_parameters()), **dict(t.named_buffers())} for t in (first, second)]
    trained = {name for name, p in first.named_parameters() if p.requires_grad}
    places = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    for name, tensor in tensors[0].items():
        is_shared = tensor.data_ptr() == tensors[1][name].data_ptr()
        assert is_shared == (tensor.data_ptr() in places) == (name not in trained), name
    before = {name: t.detach().clone() for name, t in model.state_dict().items()}
    states, expected = second.eval()(some), model.means(some.alone())
    optimizer = torch.optim.SGD(first.trained(), lr=0.1, weight_decay=0.1)
    for _ in range(2):  # the first matrix of an adapter has no gradient while the second is zero
        first.train()(some).square().sum().backward()
        optimizer.step()
    assert not torch.equal(first.eval()(some), states)
    first.double()  # a network moves alone to another type or device
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert torch.equal(second(some), states) and torch.equal(model.means(some.alone()), expected)


def test_only_what_is_trained_has_dropout_and_no_statistics_move(speech_models) -> None:
    tuned = TunedSpeech(
        speech_models["wav2vec2-conformer"], settings(speech_unfrozen_layers=1)
    ).train()
    network = tuned.model.network
    below, top = network.encoder.layers
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    assert norms and not any(norm.training for norm in norms)
    assert not any(module.training for module in below.modules())
    assert all(m.training for m in top.modules() if not isinstance(m, nn.BatchNorm1d))
    before = [norm.running_mean.clone() for norm in norms]
    tuned(waves(8000)).sum().backward()
    assert all(torch.equal(a, norm.running_mean) for a, norm in zip(before, norms, strict=True))


@pytest.mark.parametrize("kind", ["wavlm-layer", "hubert-group", "whisper", "wav2vec2-conformer"])
@pytest.mark.parametrize("part", [{"speech_lora_rank": 2}, {"speech_unfrozen_layers": 2}])
def test_layers_that_are_computed_again_give_equal_gradients(
    speech_models, kind: str, part
) -> None:
    found, n_calls = [], []
    for again in (False, True):
        tuned = TunedSpeech(speech_models[kind], settings(**part))
        filled(tuned).train()
        if again:
            tuned.checkpoint_gradients()
        calls: list[object] = []
        network = tuned.model.network
        top = getattr(network, "encoder", network).layers[-1]
        part_of_top = next(m for m in top.modules() if isinstance(m, nn.LayerNorm))
        part_of_top.register_forward_hook(lambda *inputs, calls=calls: calls.append(inputs))
        torch.manual_seed(5)
        tuned(waves(9000, 5000)).square().sum().backward()
        n_calls.append(len(calls))
        found.append([parameter.grad for parameter in tuned.trained()])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)
    assert n_calls[1] == 2 * n_calls[0]
