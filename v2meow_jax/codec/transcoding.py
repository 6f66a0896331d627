"""Media files to files of codes and back, piece by piece: an hour needs no more memory than ten seconds."""

import json
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
import soundfile
from jaxtyping import Int

from v2meow_jax import errors, files
from v2meow_jax.codec.codec import Codec
from v2meow_jax.encoders import registry
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media import container


def encode_file(
  codec: Codec, path: pathlib.Path, out: pathlib.Path, levels: int | None = None, strict: bool = False
) -> tuple[float, int]:
  """Writes a media file's codes, what is needed to decode them, and whose they are.

  Args:
    codec: encodes.
    path: of the media file.
    out: a .npz file.
    levels: codebook levels that are kept, the first ones; all by default.
    strict: refuse audio of another sample rate or number of channels than the codec's.

  Returns:
    (seconds of audio, levels).

  Raises:
    errors.ConfigError: the codec has no so many levels.
    errors.MediaError: the file cannot be read, is silent, or is not as `strict` wants it.
  """
  if levels is not None and not 1 <= levels <= codec.stream.width:
    raise errors.ConfigError(f'--levels={levels}: the codec has 1 to {codec.stream.width}')
  with container.open_media(path) as opened:
    native = container.audio_stream(opened, path)
    found = native.sample_rate, native.channels
  wanted = codec.sample_rate, codec.channels
  if found != wanted:
    told = f'{path}: {found[0]} Hz, {found[1]} channel(s); the codec takes {wanted[0]} Hz, {wanted[1]}'
    if strict:
      raise errors.MediaError(f'{told}; convert it, or leave out --strict')
    warnings.warn(f'{told}, so it is converted', stacklevel=1)
  heard: list[float] = []
  samples = 0

  def counted() -> Iterator[np.ndarray]:
    nonlocal samples
    for block in _blocks(codec, path, heard):
      samples += block.shape[1]
      yield block

  codes = np.concatenate([block[0] for block in codec.encode_blocks(counted())])[:, :levels]
  if max(heard) == 0:
    raise errors.MediaError(f'{path}: its audio is silent from beginning to end; there is nothing to encode')
  about = {'identity': codec.identity, 'sample_rate': codec.sample_rate, 'samples': samples}
  with files.replaced_when_done(out) as temporary, open(temporary, 'wb') as file:
    np.savez_compressed(file, codes=codes.astype(np.uint16), about=json.dumps(about))
  return samples / codec.sample_rate, codes.shape[1]


def _blocks(codec: Codec, path: pathlib.Path, heard: list[float]) -> Iterator[np.ndarray]:
  """The file's audio in blocks as the codec takes it; adds each one's peak to `heard`."""
  seconds = codec.block * codec.hop / codec.sample_rate
  n = 0
  while True:
    try:
      sound, _ = audio_files.load_audio(path, codec.sample_rate, codec.channels, n * seconds, seconds)
    except errors.MediaEnded:
      if n:  # with the block before
        return
      raise
    heard.append(float(np.abs(sound).max()))
    yield sound[None]
    if len(sound) < codec.block * codec.hop:
      return
    n += 1


def read_codes(codec: Codec, path: pathlib.Path) -> tuple[Int[np.ndarray, 'n levels'], int]:
  """(codes, samples of audio) of a file that `encode_file` wrote with this codec.

  Raises:
    errors.DatasetError: it is none, it is damaged, or another codec wrote it.
  """
  told = f'{path}: not codes as v2meow codec encode writes them'
  with errors.translated(errors.DatasetError, told), np.load(path, allow_pickle=False) as stored:
    codes, about = stored['codes'].astype(np.int32), json.loads(str(stored['about']))
    identity, samples = about['identity'], int(about['samples'])
  if not registry.same(identity, codec.identity):
    raise errors.DatasetError(f'{path}: these codes were made by another codec than the one given')
  try:
    codec.check_codes(codes)
  except ValueError as error:
    raise errors.DatasetError(f'{path}: damaged: {error}') from error
  return codes, samples


def write_audio(codec: Codec, codes: Int[np.ndarray, 'n levels'], samples: int, out: pathlib.Path) -> None:
  """Writes the audio of codes, `samples` long, as a 16-bit WAV file."""
  left = samples
  blocks = (codes[None, at : at + codec.block] for at in range(0, len(codes), codec.block))
  with (
    files.replaced_when_done(out) as temporary,
    soundfile.SoundFile(temporary, 'w', codec.sample_rate, codec.channels, 'PCM_16', format='WAV') as file,
  ):
    for audio in codec.decode_blocks(blocks):
      file.write(np.clip(audio[0, :left], -1, 1))
      left -= min(left, audio.shape[1])
    file.write(np.zeros((left, codec.channels), np.float32))  # what odd strides leave out
