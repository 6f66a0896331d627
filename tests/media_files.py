"""Writers of small media files for the tests of this folder."""

from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT = 64, 48


def brightness(index):
  return 20 + 7 * index % 210


def index_of(picture, count=30):
  """Which frame a decoded picture is, from its brightness."""
  level = picture[8:-8, 8:-8].mean()
  return int(np.argmin([abs(brightness(each) - level) for each in range(count)]))


def write_video(path, pts, time_base, codec='libx264', rotation=None, options=None, picture=None, rate=10):
  """Writes frame i, grey of `brightness(i)`, at `pts[i]` ticks."""
  with av.open(str(path), 'w', options=options or {}) as container:
    encoder = {'g': '6', 'crf': '5'} if codec == 'libx264' else {'g': '6', 'b': '2M'}
    stream = container.add_stream(codec, rate=rate, options=encoder)
    stream.height, stream.width = (HEIGHT, WIDTH) if picture is None else picture.shape[:2]
    stream.pix_fmt = 'yuv420p'
    stream.codec_context.time_base = time_base
    if rotation is not None:
      stream.set_display_rotation(rotation)
    for i, tick in enumerate(pts):
      array = np.full((HEIGHT, WIDTH, 3), brightness(i), np.uint8) if picture is None else picture
      frame = av.VideoFrame.from_ndarray(array)
      frame.pts, frame.time_base = tick, time_base
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def write_audio(path, audio, rate, codec, video_start=None, audio_start=0.0, options=None):
  """Writes [samples, channels], with half a second of black video from `video_start` if given."""
  layout = 'mono' if audio.shape[1] == 1 else 'stereo'
  with av.open(str(path), 'w', options=options or {}) as container:
    video = None
    if video_start is not None:
      video = container.add_stream('libx264', rate=10, options={'bf': '0'})
      video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
    # Noise substitution would decode to other noise after every seek.
    encoder = {'aac_pns': '0'} if codec == 'aac' else {}
    stream = container.add_stream(codec, rate=rate, layout=layout, options=encoder)
    if video is not None:
      for i in range(20):
        frame = av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        frame.pts, frame.time_base = i + round(video_start * 10), Fraction(1, 10)
        container.mux(video.encode(frame))
      container.mux(video.encode())
    for at in range(0, len(audio), 4096):
      block = np.ascontiguousarray(audio[at : at + 4096].T.astype(np.float32))
      if codec in ('pcm_s16le', 'flac'):
        block = np.round(block.T.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(block, format='s16', layout=layout)
      else:
        frame = av.AudioFrame.from_ndarray(block, format='fltp', layout=layout)
      frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
      frame.pts = at + round(audio_start * rate)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path
