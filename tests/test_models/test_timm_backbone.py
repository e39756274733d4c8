"""timm's models as backbones: the same features as timm's own, the stages counted our way, no timm."""

from __future__ import annotations

import sys

import pytest
import torch

from mmtrtvit.models import TimmBackbone

timm = pytest.importorskip('timm', reason='timm is not installed (extra benchmark)')

# name -> timm's own numbers of the four stages: RegNet counts the stem as its first feature
MODELS = {'regnety_002': (1, 2, 3, 4), 'convnext_atto': (0, 1, 2, 3)}


@pytest.mark.parametrize('name', MODELS)
def test_stages_are_those_of_timm(name: str) -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone(name, out_indices=(0, 2, 3)).eval()
    reference = timm.create_model(name, features_only=True, out_indices=MODELS[name]).eval()
    reference.load_state_dict(backbone.network.state_dict())
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        got, expected = backbone(image), reference(image)
    assert [x.shape[-2:] for x in got] == [(16, 24), (4, 6), (2, 3)]
    assert tuple(x.shape[1] for x in got) == backbone.out_channels
    for index, maps in zip((0, 2, 3), got, strict=True):
        torch.testing.assert_close(maps, expected[index])


def test_without_indices_the_classifiers_map_is_returned() -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone('regnety_002').eval()
    classifier = timm.create_model('regnety_002').eval()
    classifier.load_state_dict(backbone.network.state_dict(), strict=False)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        (maps,) = backbone(image)
        torch.testing.assert_close(classifier.head.fc(maps.mean((2, 3))), classifier(image))
    assert backbone.out_channels == (maps.shape[1],)


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match=r"nextvit_small is timm's.*pip install 'mmtrtvit\[benchmark\]'"):
        TimmBackbone('nextvit_small')


def test_wrong_arguments_say_what_is_right() -> None:
    with pytest.raises(ValueError, match=r"has no model 'nextvit_tiny'; it has nextvit_base, .*nextvit_small"):
        TimmBackbone('nextvit_tiny')
    with pytest.raises(ValueError, match=r'out_indices=\(4,\) is not one or some of the stages 0 to 3'):
        TimmBackbone('regnety_002', out_indices=(4,))
    with pytest.raises(ValueError, match='write pretrained=True'):
        TimmBackbone('regnety_002', init_cfg=dict(type='Pretrained', checkpoint='x.pth'))


def test_initializing_loads_the_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building loads nothing; ``init_weights()`` asks timm for its weights. ``create_model`` stands in for the Hub."""
    original, asked = timm.create_model, []

    def create(name: str, pretrained: bool = False, **kwargs: object) -> torch.nn.Module:
        asked.append(pretrained)
        model = original(name, pretrained=False, **kwargs)
        if pretrained:
            for parameter in model.parameters():
                torch.nn.init.constant_(parameter, 0.5)
        return model

    monkeypatch.setattr(timm, 'create_model', create)
    backbone = TimmBackbone('regnety_002', out_indices=(3,), pretrained=True)
    assert asked == [False]
    backbone.init_weights()
    assert asked == [False, True]
    assert all((parameter == 0.5).all() for parameter in backbone.parameters())
