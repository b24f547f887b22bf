"""The architectures of the zoo, with random weights that hide nothing.

Names are timm's; ``torchvision:NAME`` is one of torchvision's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ANCHORED = """
resnet18 resnet50 mobilenetv2_050 mobilenetv3_small_050 efficientnet_b0 regnety_002 densenet121 convnext_atto vgg11_bn
ghostnet_050 hardcorenas_a mnasnet_050 repvgg_a0 inception_v3 dla34 hrnet_w18_small res2net50_26w_4s seresnet18
skresnet18 resnest14d vit_tiny_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224 mobilevit_xxs mobileone_s0
fastvit_t8 efficientformer_l1 edgenext_xx_small lcnet_050 tinynet_e mixer_s32_224 poolformer_s12 levit_128s
"""
"""Those on which Torch-Pruning was measured."""

OTHERS = """
bat_resnext26ts beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_lite_tiny coat_tiny
coatnet_nano_rw_224 coatnet_rmlp_nano_rw_224 convit_tiny convmixer_768_32 convnextv2_atto convnext_atto_rms
cs3darknet_focus_s cspdarknet53 cspresnet50 crossvit_9_240 crossvit_9_dagger_240 csatv2 davit_tiny
deit_tiny_distilled_patch16_224 densenetblur121d dpn48b eca_halonext26ts eca_nfnet_l0 ecaresnet26t
efficientformerv2_s0 efficientnet_b0_g8_gn efficientnet_cc_b0_4e efficientnetv2_rw_t efficientvim_m1 efficientvit_b0
efficientvit_l1 efficientvit_m0 ese_vovnet19b_slim_dw eva02_tiny_patch14_224 fasternet_t0 flexivit_small
focalnet_tiny_srf gcresnet33ts gcresnext26ts gcvit_xxtiny gernet_s ghostnetv2_100 ghostnetv3_050 gmixer_12_224
gmlp_ti16_224 halonet26t hgnetv2_b0 hgnet_tiny hieradet_small hiera_tiny_224 iformer_t inception_next_atto
inception_v4 lambda_resnet26rpt_256 lambda_resnet26t lamhalobotnet50ts_256 lcnetv2_small legacy_xception
levit_conv_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256 maxvit_rmlp_pico_rw_256 maxxvit_rmlp_nano_rw_256
mixnet_s mobilenetv4_conv_small mobilenetv4_hybrid_medium mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_gap
nest_tiny nextvit_small nfnet_l0 nf_regnet_b0 nf_resnet26 pit_ti_224 pit_ti_distilled_224 poolformerv2_s12 pvt_v2_b0
pvt_v2_b2_li rdnet_tiny regnetx_002 regnetz_b16 repghostnet_050 repvit_m0_9 resmlp_12_224 resnet10t resnet50_clip
resnet50_gn resnet51q resnetblur18 resnetrs50 resnetv2_50d_frn resnetv2_50x1_bit resnext50_32x4d rexnet_100
samvit_base_patch16_224 sehalonet33ts selecsls42b sequencer2d_s shvit_s1 skresnext50_32x4d starnet_s1 swiftformer_xs
swin_s3_tiny_224 swinv2_cr_tiny_ns_224 swinv2_tiny_window8_256 test_efficientnet_evos test_vit3 test_vit4
tf_efficientnetv2_b0 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small
visformer_tiny vit_pe_core_tiny_patch16_384 vit_small_patch16_rope_224 vit_small_patch16_rope_mixed_ape_224
vit_srelpos_small_patch16_224 vit_tiny_patch16_dinov3_qkvb vit_tiny_r_s16_p8_224 volo_d1_224 vovnet39a xception41
xcit_nano_12_p16_224
torchvision:alexnet torchvision:deeplabv3_mobilenet_v3_large torchvision:googlenet
torchvision:lraspp_mobilenet_v3_large torchvision:maxvit_t torchvision:mvit_v2_s torchvision:r2plus1d_18
torchvision:shufflenet_v2_x0_5 torchvision:squeezenet1_1 torchvision:swin3d_t torchvision:swin_v2_t
torchvision:vit_b_32
"""
"""Other patterns of operations: attention, normalisation and mixing of every kind, segmentation, video."""

VIDEO = {"r2plus1d_18": (3, 8, 112, 112), "mvit_v2_s": (3, 16, 224, 224), "swin3d_t": (3, 8, 224, 224)}


def import_torchvision() -> Any:
    """Import torchvision's CUDA wheel beside a torch without CUDA.

    Its compiled operations are missing then, so that there is nothing to register their shape functions for; none of
    the zoo's networks calls them.
    """
    register: Callable[..., Any] = torch.library.register_fake

    def tolerant(name: str, *arguments: Any, **options: Any) -> Callable[..., Any]:
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            try:
                return register(name, *arguments, **options)(function)  # type: ignore[no-any-return]
            except RuntimeError:
                if not name.startswith("torchvision::"):
                    raise
                return function

        return decorate

    torch.library.register_fake = tolerant  # type: ignore[assignment]
    try:
        import torchvision  # type: ignore[import-not-found]
    finally:
        torch.library.register_fake = register
    return torchvision


def build(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a network in evaluation mode and the shape of one row of its input."""
    torchvision = import_torchvision()
    import timm  # type: ignore[import-not-found]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not name.startswith("torchvision:"):
            model = timm.create_model(name)
            return model.eval(), tuple(model.pretrained_cfg.get("input_size", (3, 224, 224)))
        name = name.removeprefix("torchvision:")
        options: dict[str, Any] = {"weights_backbone": None} if name.startswith(("deeplab", "lraspp")) else {}
        if name == "googlenet":
            options = {"init_weights": False}
        return torchvision.models.get_model(name, weights=None, **options).eval(), VIDEO.get(name, (3, 224, 224))


def images(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return rows [count, *shape] of noise that differ from one another at every scale, in float64."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.zeros(count, *shape, dtype=torch.float64)
    for size in (1, 4, 16, 64):
        coarse = torch.randn(count, shape[0], *(min(size, n) for n in shape[1:]), generator=generator)
        rows += F.interpolate(coarse, shape[1:]).double()
    return rows / 2 + torch.randn(rows.shape, generator=generator) / 2


def randomise(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """Draw every parameter and statistic anew, in place, so that no constant is lost unseen.

    Weights keep the scale of what they read (He), nothing is left at zero or at a layer scale's 1e-6, and batch norms
    have the statistics of random rows, shifted and scaled: a deep random network with any others hardly depends on
    its input.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    def measure(norm: nn.modules.batchnorm._BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        dims = [dim for dim in range(inputs[0].ndim) if dim != 1]
        spread = inputs[0].var(dims, unbiased=False) + 1e-3
        mean.copy_(inputs[0].mean(dims) + 0.3 * spread.sqrt() * noise(mean))
        var.copy_(spread * (0.5 + noise(var).abs()))

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shown = parameter.squeeze()
            if shown.ndim > 1:
                parameter.copy_(noise(parameter) * (2 / shown[0].numel()) ** 0.5)
            elif name.endswith("bias") or "token" in name:
                parameter.copy_(0.3 * noise(parameter))
            else:
                parameter.copy_(0.5 + 0.5 * noise(parameter).abs())
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + noise(buffer).abs())
        model.eval()(images(4, shape, seed).float())
    for hook in hooks:
        hook.remove()
    return model
