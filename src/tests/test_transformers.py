"""Language, vision and speech models of transformers, tiny, with inputs by keyword: the table of the guide."""

import warnings

import pytest
import torch
from conftest import same

import hat
from hat.nested import tensors_in

transformers = pytest.importorskip('transformers')
WORDS = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(0))
TEXT = dict(input_ids=WORDS, attention_mask=(torch.arange(8) < torch.tensor([[8], [6]])).long())
PICTURE = dict(pixel_values=torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
SMALL = dict(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
             bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
VISION = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
)
GPT = dict(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=2)
T5 = dict(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
SPEECH = dict(d_model=32, encoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, num_mel_bins=16,
              max_source_positions=20)  # fmt: skip
SIGLIP = dict(text_config=SMALL | dict(max_position_embeddings=16), vision_config=VISION)
MODELS = {  # name -> class, settings, inputs, weights of the heads, tied weights
    'BERT': ('BertForSequenceClassification', SMALL, TEXT, ['classifier.weight'], set()),
    'BERT, masked words': ('BertForMaskedLM', SMALL, TEXT, [], {'bert.embeddings.word_embeddings.weight'}),
    'GPT-2': ('GPT2LMHeadModel', GPT, TEXT, [], {'transformer.wte.weight'}),
    'Llama': ('LlamaForCausalLM', SMALL, TEXT, ['lm_head.weight'], set()),
    'Llama, tied': ('LlamaForCausalLM', SMALL | dict(tie_word_embeddings=True), TEXT, [], {'model.embed_tokens.weight'}),
    'Mixtral': ('MixtralForCausalLM', SMALL | dict(num_key_value_heads=2), TEXT, ['lm_head.weight'], set()),
    'T5': ('T5ForConditionalGeneration', T5, TEXT | dict(decoder_input_ids=WORDS), [], {'shared.weight'}),
    'ViT': ('ViTForImageClassification', VISION, PICTURE, ['classifier.weight'], set()),
    'SigLIP': ('SiglipModel', SIGLIP, TEXT | PICTURE, ['vision_model.head.mlp.fc2.weight', 'text_model.head.weight'], set()),
    'Whisper': ('WhisperEncoder', SPEECH, dict(input_features=torch.randn(2, 16, 40)), ['layers.1.fc2.weight'], set()),
}  # fmt: skip

FAST = 'BERT', 'Llama, tied'


def build(kind, settings):
    torch.manual_seed(0)
    if kind == 'WhisperEncoder':
        return transformers.WhisperModel(transformers.WhisperConfig(**settings)).encoder.eval()
    kind = getattr(transformers, kind)
    return kind(kind.config_class(**settings)).eval()


def first(output):
    return next(x for x in tensors_in(output) if x.is_floating_point())


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'name', [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_a_model_learns_tasks_with_inputs_by_keyword_and_forgets_nothing(name):
    kind, settings, inputs, heads, tied = MODELS[name]
    net = build(kind, settings)
    with warnings.catch_warnings(record=True) as caught:
        model = hat.convert(net, n_tasks=3, example_input=inputs, init=hat.init.dense, check=0)
    assert [head.weight for head in model.plan.heads] == heads and model.plan.tied == tied
    assert not any('used by every task' in str(w.message) for w in caught)
    torch.testing.assert_close(first(model.eval()(**inputs, task=0)), first(net(**inputs)))

    optimizer = torch.optim.AdamW(hat.param_groups(model, 0.01, embeddings=dict(lr=0.5)), lr=0.01)
    learned = None
    for task in range(3):
        for progress in 0.0, 0.5, 1.0:
            y = first(model.train()(**inputs, task=task, progress=progress))
            optimizer.zero_grad()
            ((y - torch.randn_like(y)).square().mean() + model.regularization()).backward()
            optimizer.step()
        before = first(model.eval()(**inputs, task=task)).detach()
        model.end_task(task)
        torch.testing.assert_close(first(model(**inputs, task=task)), before)
        learned = before if learned is None else learned
    learned = first(model(**inputs, task=0)).detach()
    assert not all(a.all() for a in model.masks(0))  # some gates have closed
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p)
    assert same(first(model(**inputs, task=0)), learned)
    torch.testing.assert_close(first(hat.prune(model, 0)(**inputs)), learned)
