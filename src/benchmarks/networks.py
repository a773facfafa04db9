"""A table of networks, as small as their makers let them be, with random weights: name -> where from, and a function
that builds the network and a tuple of example inputs.

The networks of torchvision, timm and transformers have a table each, of names and what they are made with; those that
are written for this are in hand.py. A package is imported when the first of its networks is built.
"""

import importlib
from functools import partial
from inspect import signature
from operator import attrgetter

import torch
from torch import nn

from benchmarks import hand

N_CLASSES, BATCH = 10, 2
SIZE = 64  # of images, unless `img_size` or `image_size` says otherwise
LARGER = dict.fromkeys(['inception_v3', 'tf_inception_v3', 'inception_v4', 'inception_resnet_v2'], 80)

TORCHVISION = {  # the name of a function or a class of torchvision.models, and what it is called with
    **dict.fromkeys([
        'alexnet', 'vgg11', 'resnet18', 'resnext50_32x4d', 'densenet121', 'squeezenet1_1', 'mobilenet_v3_small',
        'shufflenet_v2_x0_5', 'mnasnet0_5', 'efficientnet_b0', 'efficientnet_v2_s', 'regnet_y_400mf', 'regnet_x_400mf',
        'swin_v2_t', 'video.mc3_18', 'video.r2plus1d_18',
    ], {}),
    'googlenet': dict(init_weights=False),
    'inception_v3': dict(init_weights=False, aux_logits=False),
    'mobilenet_v2': dict(width_mult=0.25),
    'quantization.mobilenet_v2': dict(width_mult=0.25),
    'ResNet': lambda package: dict(block=package.models.resnet.BasicBlock, layers=[1] * 4,
                                   norm_layer=package.ops.FrozenBatchNorm2d),
    'ConvNeXt': lambda package: dict(block_setting=[package.models.convnext.CNBlockConfig(16, 32, 1),
                                                    package.models.convnext.CNBlockConfig(32, None, 2)]),
    'VisionTransformer': dict(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64),
    'SwinTransformer': dict(patch_size=[2, 2], embed_dim=16, depths=[2, 2], num_heads=[1, 2], window_size=[4, 4]),
    'MaxVit': dict(input_size=(64, 64), stem_channels=16, block_channels=[16, 32], block_layers=[1, 1], head_dim=16,
                   stochastic_depth_prob=0.1, partition_size=4),
    'segmentation.lraspp_mobilenet_v3_large': dict(weights_backbone=None),
    'segmentation.deeplabv3_mobilenet_v3_large': dict(weights_backbone=None),
    'segmentation.fcn_resnet50': dict(weights_backbone=None),
    'detection.backbone_utils.resnet_fpn_backbone': dict(backbone_name='resnet18', weights=None, trainable_layers=5),
    'video.MViT': lambda package: dict(spatial_size=(32, 32), temporal_size=16, residual_pool=True, rel_pos_embed=True,
                                       residual_with_cls_embed=False, proj_after_attn=True, block_setting=[
        package.models.video.mvit.MSBlockConfig(1, 16, 16, [3] * 3, [3] * 3, [1] * 3, [1, 2, 2]),
        package.models.video.mvit.MSBlockConfig(2, 16, 32, [3] * 3, [3] * 3, [1, 2, 2], [1] * 3)]),
    'video.swin_transformer.SwinTransformer3d': dict(patch_size=[2, 4, 4], embed_dim=16, depths=[2, 2],
                                                     num_heads=[1, 2], window_size=[2, 4, 4]),
}  # fmt: skip

VIT = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
WINDOWS = dict(img_size=32, embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=(4, 4))
FOUR = dict(depths=(1, 1, 1, 1))
WIDTHS = dict(embed_dims=(16, 32, 32, 64), num_heads=(1, 2, 2, 4))
LAYERS = dict(layers=(1, 1, 1, 1), channels=(16, 32, 64, 64))
TIMM = {  # the name of a model, or module.Class where timm.create_model cannot make it smaller
    **dict.fromkeys([
        'lambda_resnet26t', 'test_byobnet', 'mobileone_s1', 'gernet_s', 'repvgg_a0', 'gcresnext26ts', 'test_convnext',
        'cpubone_nano', 'csatv2', 'cs3darknet_focus_s', 'darknet17', 'dla46_c', 'dla46x_c', 'dpn48b',
        'edgenext_xx_small', 'test_efficientnet', 'test_efficientnet_evos', 'mobilenetv2_035', 'mnasnet_small',
        'mixnet_s', 'tinynet_e', 'efficientnet_lite0', 'efficientnet_es', 'fbnetc_100', 'efficientvim_m1',
        'efficientvit_b0', 'efficientvit_m0', 'fasternet_t0', 'fastvit_t8', 'ghostnet_050', 'ghostnetv2_100',
        'ghostnetv3_050', 'hardcorenas_a', 'hgnetv2_b0', 'hrnet_w18_small', 'iformer_t', 'inception_next_atto',
        'inception_resnet_v2', 'tf_inception_v3', 'inception_v4', 'lcnetv2_small', 'lowformer_b0', 'test_mambaout',
        'poolformer_s12', 'poolformerv2_s12', 'convformer_s18', 'caformer_s18', 'lcnet_035', 'mobilenetv3_small_050',
        'mobilenetv4_conv_small_035', 'mobilenetv4_hybrid_medium', 'fbnetv3_b', 'mobilevit_xxs', 'mobilevitv2_050',
        'test_nfnet', 'nf_regnet_b0', 'pnasnet5large', 'pvt_v2_b0', 'regnetx_002', 'regnety_002', 'regnetz_005',
        'repghostnet_050', 'repvit_m1', 'test_resnet', 'resnet10t', 'rexnet_100', 'selecsls42', 'legacy_seresnet18',
        'shvit_s1', 'starnet_s050', 'swiftformer_xs', 'test_vit', 'test_vit2', 'test_vit4', 'ese_vovnet19b_slim_dw',
        'ese_vovnet19b_slim', 'legacy_xception',
    ], {}),
    **dict.fromkeys([
        'beit_base_patch16_224', 'cait_xxs24_224', 'deit_tiny_patch16_224', 'deit_tiny_distilled_patch16_224',
        'deit3_small_patch16_224', 'eva02_tiny_patch14_224', 'vit_tiny_patch16_dinov3_qkvb',
        'vit_pe_core_tiny_patch16_384', 'flexivit_small', 'aimv2_large_patch14_224', 'vit_small_patch16_18x2_224',
        'vit_tiny_r_s16_p8_224', 'vit_srelpos_small_patch16_224', 'xcit_nano_12_p8_224',
    ], VIT),
    **dict.fromkeys([
        'res2next50', 'resnest14d', 'ecaresnet26t', 'seresnet18', 'resnetblur18', 'resnetv2_18', 'skresnet18',
    ], LAYERS),
    **dict.fromkeys([
        'botnet26t_256', 'efficientformerv2_s0', 'levit_128s', 'levit_conv_128s', 'test_coatnet', 'test_maxvit',
        'gmlp_ti16_224', 'mixer_s32_224', 'resmlp_12_224', 'gmixer_12_224', 'mvitv2_tiny', 'test_vit3',
        'test_vit_relpos', 'vitamin_small_224',
    ], dict(img_size=64)),
    'beitv2_base_patch16_224': VIT | dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True),
    'eca_halonext26ts': dict(img_size=256),
    'coat_tiny': dict(img_size=64, embed_dims=[32] * 4, serial_depths=[1] * 4, parallel_depth=1),
    'coat_lite_tiny': dict(img_size=64, embed_dims=[16, 16, 32, 32], serial_depths=[1] * 4),
    'convit_tiny': VIT | dict(local_up_to_layer=1),
    'convmixer.ConvMixer': dict(dim=32, depth=2, kernel_size=5, patch_size=4),
    'convnextv2_atto': FOUR | dict(dims=(16, 32, 32, 64)),
    'crossvit_tiny_240': dict(img_size=120, embed_dim=[16, 32], depth=[[1, 1, 0]], num_heads=[2, 2]),
    'cspnext_tiny': FOUR,
    'davit_tiny': dict(depths=(1, 1), embed_dims=(16, 32), num_heads=(1, 2)),
    'deepseek_vit_412m': dict(img_size=42, embed_dim=32, depth=2, num_heads=2),
    'densenetblur121d': dict(growth_rate=8, block_config=(2, 2, 2)),
    'efficientformer_l1': FOUR | dict(img_size=224, embed_dims=(16, 24, 32, 48), num_vit=1),
    'efficientvit_l1': dict(widths=(16, 16, 32, 32, 64), depths=(1, 1, 1, 1, 1), head_dim=16, head_widths=(64, 64)),
    'fastvit_sa12': dict(layers=(1, 1, 1, 1), embed_dims=(16, 32, 32, 64)),
    'focalnet.FocalNet': dict(embed_dim=16, depths=(1, 1, 1)),
    'gcvit.GlobalContextVit': dict(img_size=64, embed_dim=16, depths=(1, 1, 1), num_heads=(2, 2, 4),
                                   window_ratio=(16, 16, 16)),
    'gemma4_vit_167m': dict(img_size=48, embed_dim=32, depth=2, num_heads=2, head_dim=16, intermediate_size=64),
    'hiera_tiny_224': dict(img_size=64, embed_dim=16, stages=(1, 1, 1, 1), mask_unit_size=(8, 8)),
    'hieradet_small': dict(embed_dim=16, window_spec=(8, 4, 4, 4), stages=(1, 1, 2, 1), global_att_blocks=(3,)),
    'mobilenetv5_base': dict(channel_multiplier=0.1),
    'naflexvit_base_patch16_gap': dict(patch_size=8, embed_dim=32, depth=2, num_heads=2),
    'nasnet.NASNetALarge': dict(stem_size=16, num_features=384),
    'nest.Nest': dict(img_size=32, embed_dims=(16, 32), num_heads=(1, 2), depths=(1, 1), num_levels=2),
    'nextvit_small': dict(stem_chs=(16, 16, 16), depths=(1, 1, 5, 1)),
    'pit_ti_224': dict(img_size=64, base_dims=(16, 16, 16), depth=(1, 1, 1)),
    'qwen3_vit_88m': dict(img_size=64, embed_dim=32, depth=2, num_heads=2),
    'rdnet_tiny': dict(growth_rates=[16] * 7, num_blocks_list=[1] * 7),
    'resnetv2_50d_gn': LAYERS | dict(channels=(128, 128, 128, 128)),
    'resnetv2.ResNetV2': LAYERS | dict(channels=(128, 128, 128, 128)),
    'sequencer2d_s': dict(img_size=56, layers=[1] * 4, embed_dims=[16] * 4, hidden_sizes=[8] * 4),
    **dict.fromkeys(['swin_tiny_patch4_window7_224', 'swinv2_tiny_window8_256', 'swinv2_cr_tiny_224'], WINDOWS),
    'tiny_vit_5m_224': FOUR | WIDTHS,
    'tnt_s_patch16_224': dict(img_size=32, embed_dim=32, depth=2, inner_dim=8, num_heads_inner=2, num_heads_outer=2),
    'tresnet_m': dict(layers=[1] * 4, width_factor=0.25),
    **dict.fromkeys(['twins_svt_small', 'twins_pcpvt_small'], FOUR | WIDTHS | dict(img_size=64)),
    'vgg.VGG': dict(cfg=[8, 'M', 16, 'M'], mlp_ratio=0.01),
    'visformer_tiny': dict(img_size=64, embed_dim=32, init_channels=8, depth=(1, 1, 1), num_heads=2, group=2),
    'samvit_base_patch16_224': VIT | dict(neck_chans=16, global_attn_indexes=(1,), window_size=2),
    'volo.VOLO': dict(img_size=32, layers=(1, 1), embed_dims=(16, 32), num_heads=(2, 2), stem_hidden_dim=8),
    'xception_aligned.XceptionAligned': dict(block_cfg=[dict(in_chs=64, out_chs=32, stride=2),
                                                       dict(in_chs=32, out_chs=64, stride=1)]),
}  # fmt: skip

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
WORDS = dict(vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2)
TEXT = SMALL | WORDS | dict(max_position_embeddings=64, cls_token_id=3, sep_token_id=2)
IMAGE = SMALL | dict(image_size=32, patch_size=8)
KEYS = TEXT | dict(num_key_value_heads=1, head_dim=16)
WAVE = SMALL | dict(conv_dim=(16, 16, 16), conv_kernel=(10, 3, 2), conv_stride=(5, 2, 2), num_conv_pos_embeddings=16,
                    num_conv_pos_embedding_groups=2, classifier_proj_size=16)  # fmt: skip
STAGES = dict(image_size=64, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1])
SHIFTED = dict(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[1, 2], window_size=4)

TRANSFORMERS = {  # name of a class, and what its configuration is made with
    **dict.fromkeys([
        'BertForSequenceClassification', 'RobertaForSequenceClassification', 'GPT2ForSequenceClassification',
        'GPTNeoXForSequenceClassification', 'BloomForSequenceClassification', 'FalconForSequenceClassification',
        'PhiForSequenceClassification', 'CLIPTextModel', 'MPNetForSequenceClassification',
        'LayoutLMForSequenceClassification', 'FNetForSequenceClassification', 'RoFormerForSequenceClassification',
        'ModernBertForSequenceClassification',
    ], TEXT),
    **dict.fromkeys([
        'LlamaForSequenceClassification', 'MistralForSequenceClassification', 'Qwen2ForSequenceClassification',
        'Qwen3ForSequenceClassification', 'GemmaForSequenceClassification', 'Gemma2ForSequenceClassification',
        'Phi3ForSequenceClassification',
    ], KEYS),
    **dict.fromkeys([
        'ViTForImageClassification', 'DeiTForImageClassification', 'ViTMSNForImageClassification',
        'Dinov2ForImageClassification', 'Dinov2WithRegistersForImageClassification', 'CLIPVisionModel',
        'SiglipVisionModel',
    ], IMAGE),
    **dict.fromkeys([
        'Wav2Vec2ForSequenceClassification', 'HubertForSequenceClassification', 'WavLMForSequenceClassification',
    ], WAVE),
    'DistilBertForSequenceClassification': WORDS | dict(dim=32, n_layers=2, n_heads=2, hidden_dim=64),
    'AlbertForSequenceClassification': TEXT | dict(embedding_size=16),
    'ElectraForSequenceClassification': TEXT | dict(embedding_size=16),
    'DebertaForSequenceClassification': TEXT | dict(relative_attention=True, pos_att_type=['c2p', 'p2c']),
    'DebertaV2ForSequenceClassification': TEXT | dict(relative_attention=True, pos_att_type=['c2p', 'p2c']),
    'GPTNeoForSequenceClassification': TEXT | dict(attention_types=[[['global', 'local'], 1]], window_size=4),
    'GPTJForSequenceClassification': TEXT | dict(rotary_dim=8),
    'OPTForSequenceClassification': TEXT | dict(ffn_dim=64, word_embed_proj_dim=32),
    'MixtralForSequenceClassification': KEYS | dict(num_local_experts=2, num_experts_per_tok=1),
    'MambaModel': TEXT | dict(state_size=4),
    'T5EncoderModel': WORDS | dict(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2),
    'BartModel': TEXT | dict(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                             decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64),
    'LongformerForSequenceClassification': TEXT | dict(attention_window=4),
    'BigBirdForSequenceClassification': TEXT | dict(block_size=2, num_random_blocks=1),
    'FunnelForSequenceClassification': WORDS | dict(block_sizes=[1, 1], d_model=32, n_head=2, d_head=16, d_inner=64),
    'XLNetForSequenceClassification': WORDS | dict(d_model=32, n_layer=2, n_head=2, d_inner=64),
    'XLMForSequenceClassification': WORDS | dict(emb_dim=32, n_layers=2, n_heads=2),
    'SqueezeBertForSequenceClassification': TEXT | dict(embedding_size=32),
    'ConvBertForSequenceClassification': TEXT | dict(embedding_size=32),
    'CTRLForSequenceClassification': WORDS | dict(n_embd=32, dff=64, n_layer=2, n_head=2),
    'PerceiverForSequenceClassification': WORDS | dict(
        d_model=32, d_latents=32, num_latents=4, num_blocks=1, num_self_attends_per_block=2, num_self_attention_heads=2,
        num_cross_attention_heads=2, max_position_embeddings=64),
    'BeitForImageClassification': IMAGE | dict(use_relative_position_bias=True),
    **dict.fromkeys(['SwinForImageClassification', 'Swinv2ForImageClassification'], SHIFTED),
    **dict.fromkeys([
        'ConvNextForImageClassification', 'ConvNextV2ForImageClassification', 'PoolFormerForImageClassification',
    ], STAGES),
    'ResNetForImageClassification': STAGES | dict(embedding_size=8),
    'RegNetForImageClassification': STAGES | dict(embedding_size=8, groups_width=8),
    'SegformerForImageClassification': STAGES | dict(num_attention_heads=[1, 1, 2, 2]),
    'MobileViTForImageClassification': dict(
        image_size=64, hidden_sizes=[32, 32, 32], neck_hidden_sizes=[16, 16, 16, 16, 32, 32, 64],
        initializer_range=0.5),
    'LevitForImageClassification': dict(
        image_size=64, hidden_sizes=[16, 16, 32], num_attention_heads=[2, 2, 2], depths=[1, 1, 1], key_dim=[8, 8, 8]),
    'CvtForImageClassification': dict(embed_dim=[8, 16, 32], num_heads=[1, 2, 2], depth=[1, 2, 3]),
    'PvtV2ForImageClassification': STAGES | dict(num_attention_heads=[1, 1, 2, 2]),
    'FocalNetForImageClassification': dict(
        image_size=32, embed_dim=16, depths=[1, 1], focal_levels=[1, 1], focal_windows=[3, 3]),
    'ImageGPTForImageClassification': WORDS | dict(n_embd=32, n_layer=2, n_head=2, n_positions=64),
    'SEWForSequenceClassification': WAVE | dict(squeeze_factor=1),
    'WhisperForAudioClassification': dict(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, num_mel_bins=16,
        max_source_positions=16),
    'ASTForAudioClassification': IMAGE | dict(num_mel_bins=16, max_length=32, frequency_stride=8, time_stride=8),
}  # fmt: skip


def normal(*shape):
    """A batch of normal numbers, drawn apart from all others."""
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(0))


def of_torchvision(name, settings):
    import torchvision

    settings = settings(torchvision) if callable(settings) else settings
    side = LARGER.get(name, settings.get('image_size', SIZE))
    shape = (16, 32, 32) if name.startswith('video') else (side, side)
    if not name.startswith('detection'):
        settings = settings | dict(num_classes=N_CLASSES)
    return attrgetter(name)(torchvision.models)(**settings), (normal(3, *shape),)


def of_timm(name, settings):
    import timm

    module, _, kind = name.rpartition('.')
    module = importlib.import_module(f'timm.models.{module}') if module else None
    make = getattr(module, kind) if module else partial(timm.create_model, name)
    side = LARGER.get(name, settings.get('img_size', SIZE))
    return make(num_classes=N_CLASSES, **settings), (normal(3, side, side),)


def of_transformers(name, settings):
    """Text comes with a mask for padding where the network takes one."""
    import transformers

    kind = getattr(transformers, name)
    net = kind(kind.config_class(num_labels=N_CLASSES, **settings))
    side, words = settings.get('image_size', SIZE), torch.randint(4, 50, (BATCH, 16))
    if net.main_input_name in ('input_ids', 'inputs'):
        inputs = {net.main_input_name: words, 'attention_mask': (torch.arange(16) < 12).long().expand(BATCH, 16)}
    elif net.main_input_name == 'pixel_values':
        inputs = {'pixel_values': normal(3, side, side)}
    elif net.main_input_name == 'input_features':
        inputs = {'input_features': normal(16, 32)}
    else:
        inputs = {'input_values': normal(*([400] if 'conv_dim' in settings else [32, 16]))}
    names = [name for name in inputs if name in signature(net.forward).parameters]
    return Classifier(net, names), tuple(inputs[name] for name in names)


class Classifier(nn.Module):
    """A network of transformers that takes its inputs by position and gives logits; where it has none, those of a
    linear layer for the mean over its output."""

    def __init__(self, net, names):
        super().__init__()
        self.net, self.names = net, names
        self.head = None if 'Classification' in type(net).__name__ else nn.Linear(net.config.hidden_size, N_CLASSES)

    def forward(self, *inputs):
        output = self.net(**dict(zip(self.names, inputs, strict=True)))
        return output.logits if self.head is None else self.head(output.last_hidden_state.mean(1))


def by_hand(make, inputs):
    return make(), tuple(each() for each in inputs)


BUILDERS = {'torchvision': of_torchvision, 'timm': of_timm, 'transformers': of_transformers}
NETWORKS = {name: (source, partial(BUILDERS[source], name, settings))
            for source, table in (('torchvision', TORCHVISION), ('timm', TIMM), ('transformers', TRANSFORMERS))
            for name, settings in table.items()}  # fmt: skip
NETWORKS |= {name: ('hand', partial(by_hand, make, inputs)) for name, (make, inputs) in hand.NETWORKS.items()}
SOURCES = [*BUILDERS, 'hand']
