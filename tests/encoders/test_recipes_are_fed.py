"""The full-size recipes find every stream that they name in what `prepare` makes, and train on it.

Networks are small ones of random weights in published layouts, so their widths are set; rates and levels
are not.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
from safetensors.numpy import save_file

import gin
from v2meow_jax import bundles, description, terminal
from v2meow_jax.codec import quantizer
from v2meow_jax.codec.codec import Codec, CodecConfig
from v2meow_jax.codec.spectral import SpectralConfig
from v2meow_jax.commands import fit_semantic, fit_tokens, prepare, train
from v2meow_jax.data import dataset

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')

CODES = 8
TINY = [
  '--gin.clip/Stream.width=12', '--gin.flow/Stream.width=64', f'--gin.semantic/Stream.codes={CODES}',
  f'--gin.acoustic/Stream.codes={CODES}', '--gin.TransformerConfig.layers=1',
  '--gin.TransformerConfig.width=8', '--gin.TransformerConfig.heads=2', '--gin.TransformerConfig.mlp=8',
  '--gin.BATCH_SIZE=1', '--gin.TOTAL_STEPS=2', '--gin.WARMUP_STEPS=1', '--gin.Settings.eval_steps=1',
]  # fmt: skip
CROPS = {
  'semantic': ['--gin.SEMANTIC_CROP=2'],
  'coarse': ['--gin.COARSE_CROP=1'],
  'fine': ['--gin.FINE_CROP=1'],
}


@pytest.fixture(autouse=True)
def clean():
  gin.clear_config()
  yield
  gin.clear_config()


def run(main, *arguments):
  gin.clear_config()
  assert terminal.run(main, [str(argument) for argument in arguments]) == 0


def write_codec(folder):
  """A bundle of a codec alone: 24 kHz, 50 frames a second, 12 levels, as the recipes have it."""
  config = CodecConfig(
    SpectralConfig(window=960, spectrum_hop=240, downsampling=2, width=8, encoder_blocks=1, decoder_blocks=1),
    quantizer.QuantizerConfig(levels=12, codes=CODES, dimension=4),
    sample_rate=24000,
  )
  params = jax.jit(config.build().init)(jax.random.key(0), jnp.zeros((1, 1920, 1)))['params']
  made = Codec(config, {'params': params, 'codebooks': jax.random.normal(jax.random.key(1), (12, CODES, 4))})
  about = {'config': description.describe(config), 'identity': made.identity}
  bundles.write(folder, codec=bundles.Network('codec', about, made.weights), stages=[], encoders=[])
  return folder


def hear(folder, out, way):
  """audio/semantic: of w2v-BERT 2.0 as the recipes mean it, or of log-mel and chroma where PyTorch is not."""
  if way == 'w2v-bert':
    pytest.importorskip('torch', reason='the extra "encoders" is not installed')
    transformers = pytest.importorskip('transformers', reason='the extra "encoders" is not installed')
    config = transformers.Wav2Vec2BertConfig(
      hidden_size=16, num_hidden_layers=8, num_attention_heads=2, intermediate_size=16, vocab_size=None
    )
    transformers.Wav2Vec2BertModel(config).save_pretrained(folder / 'w2v')
    transformers.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80).save_pretrained(folder / 'w2v')
    place = f'--gin.W2V_BERT="{folder / "w2v"}"'
    run(prepare.main, '--gin_file=encoders/w2v_bert.gin', place, f'--out={out}', '--workers=1')
    codes = folder / 'codes.safetensors'
    run(
      fit_tokens.main, f'--dataset={out}', '--stream=audio/w2v-bert', '--name=audio/semantic',
      f'--out={codes}', f'--codes={CODES}',
    )  # fmt: skip
    files = ('--gin_file=encoders/semantic_w2v_bert.gin', place, f'--gin.CODES="{codes}"')
    run(prepare.main, *files, f'--out={out}', '--workers=1')
    return
  codes = folder / 'semantic.safetensors'
  run(prepare.main, f'--out={out}', '--streams=audio/waveform', '--workers=1')
  run(fit_semantic.main, f'--dataset={out}', f'--out={codes}', f'--codes={CODES}')
  run(prepare.main, f'--out={out}', '--streams=audio/semantic', f'--semantic={codes}', '--workers=1')


@pytest.fixture(scope='module', params=['log-mel', pytest.param('w2v-bert', marks=pytest.mark.slow)])
def prepared(request, demo_clip, tmp_path_factory):
  gin.clear_config()
  folder = tmp_path_factory.mktemp('fed')
  rows = []
  for name, split in (('a', 'train'), ('b', 'validation')):
    shutil.copy(demo_clip, folder / f'{name}.mp4')
    rows.append({'id': name, 'video': f'{name}.mp4', 'split': split})
  (folder / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  published.lay_out('clip', folder / 'clip')
  save_file(published.i3d('Flow', shrink=16), folder / 'flow.safetensors')
  out = folder / 'ds'
  run(
    prepare.main, f'--manifest={folder / "manifest.jsonl"}', f'--out={out}', '--clip_seconds=6',
    '--workers=1',
    '--gin_file=encoders/clip.gin', '--gin_file=encoders/flow.gin', f'--gin.CLIP="{folder / "clip"}"',
    f'--gin.FLOW="{folder / "flow.safetensors"}"', '--gin.flow/FlowNetwork.pictures=2',
    '--gin.flow/FlowNetwork.seen=4', '--gin.flow/FlowNetwork.side=24', '--gin.flow/FlowNetwork.crop=24',
  )  # fmt: skip
  hear(folder, out, request.param)
  run(
    prepare.main, f'--out={out}', '--streams=audio/acoustic', f'--codec={write_codec(folder / "codec")}',
    '--workers=1',
  )  # fmt: skip
  assert (out / 'rejected.jsonl').read_text() == ''
  return out


def test_streams_are_those_of_the_recipes_but_for_their_widths(prepared):
  entries = dataset.read_streams(prepared)
  told = {name: (entry['kind'], entry['rate']) for name, entry in entries.items()}
  for name, kind, rate in (
    ('video/clip', 'embedding', '1'), ('video/flow', 'embedding', '1'), ('audio/semantic', 'tokens', '25'),
    ('audio/acoustic', 'tokens', '50'),
  ):  # fmt: skip
    assert told[name] == (kind, rate)
  assert entries['audio/acoustic']['width'] == 12
  stream = dataset.find_stream(prepared, 'video/flow')
  data = dataset.Dataset(prepared, 'train', (stream,))
  elements = np.concatenate([data.read(stream, clip) for clip in range(len(data.clips))]).astype(np.float32)
  assert (
    elements.shape == (30, 64) and (elements.std(0) > 0).mean() > 0.2
  )  # it moves; most of these units are dead


@pytest.mark.parametrize(
  'recipe',
  [
    f'v2meow{size}_{stage}' if (size, stage) == ('', 'semantic')
    else pytest.param(f'v2meow{size}_{stage}', marks=pytest.mark.slow)
    for size in ('', '_musiclm') for stage in CROPS
  ],
)  # fmt: skip
def test_a_step_of_each_recipe(prepared, recipe, tmp_path):
  stage = recipe.rpartition('_')[2]
  places = [f'--gin.MODEL_DIR="{tmp_path / "run"}"', f'--gin.DATASET_DIR="{prepared}"']
  unread = {'semantic': ('acoustic',), 'coarse': (), 'fine': ('semantic', 'clip', 'flow')}[stage]
  chosen = [flag for flag in TINY if not any(f'{name}/' in flag for name in unread)]
  run(train.main, f'--gin_file=recipes/{recipe}.gin', *chosen, *CROPS[stage], *places)
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert losses and np.isfinite(losses).all() and max(losses) < 2 * np.log(CODES)
  about = json.loads((tmp_path / 'run' / 'model.json').read_text())
  assert (
    set(about['data'])
    == {
      'semantic': {'video/clip', 'video/flow', 'audio/semantic'},
      'coarse': {'video/clip', 'video/flow', 'audio/semantic', 'audio/acoustic'},
      'fine': {'audio/acoustic'},
    }[stage]
  )
