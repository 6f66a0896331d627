"""The page of `v2meow serve`: what is on it, and what its buttons do."""

import contextlib
import dataclasses
import html
import pathlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from v2meow_jax import errors
from v2meow_jax.app.studio import Limits, Made, Studio, Working
from v2meow_jax.bundles import Bundle
from v2meow_jax.encoders.base import StyleEncoder
from v2meow_jax.generation import guidance
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.request import PROMPT_CHARACTERS, Request
from v2meow_jax.sampling import Sampling

CSS = """
.stages { display: grid; grid-template-columns: max-content 1fr max-content; gap: 0.4em 1em }
.stages progress { width: 100%; height: 1.4em; accent-color: var(--primary-500) }
/* It would load a program from another server. */
#video button[aria-label^="Trim"] { display: none }
/* After Stop it holds the word "Error", hidden from those who see and not from those who listen. */
[data-testid="status-tracker"].hide { display: none }
.refused { color: var(--error-text-color); font-weight: 600 }
"""


def theme() -> gr.themes.Base:
  """Fonts that every machine has: the page asks no other server for anything."""
  return gr.themes.Soft(
    font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'], primary_hue='teal'
  )


def build(pipeline: Pipeline, bundle: Bundle, limits: Limits, examples: Sequence[pathlib.Path]) -> gr.Blocks:
  """The page.

  Args:
    pipeline: makes the music, one piece at a time.
    bundle: that the pipeline is of.
    limits: on what is asked.
    examples: videos that are offered to try.
  """
  studio = Studio(pipeline, bundle.digest, limits)
  age = round(60 * limits.minutes)
  with gr.Blocks(
    title='V2Meow', analytics_enabled=False, delete_cache=(max(1, min(age // 2, 600)), max(1, age))
  ) as page:
    gr.Markdown(_head(bundle, limits))
    with gr.Row():
      with gr.Column():
        inputs = _inputs(pipeline)
        with gr.Row():
          make = gr.Button('Make music', variant='primary', elem_id='make')
          stop = gr.Button('Stop', variant='stop', elem_id='stop')
        if examples:
          gr.Examples([[str(path)] for path in examples], [inputs['video']], label='Videos to try')
      with gr.Column():
        status = gr.HTML(elem_id='status')
        film = gr.Video(label='Film', interactive=False, autoplay=True, height=280, elem_id='film')
        sound = gr.Audio(
          label='Music', interactive=False, elem_id='sound', visible=False, buttons=['download']
        )
        picture = gr.Image(
          label='What was made', interactive=False, elem_id='picture', visible=False, show_label=False,
          buttons=['fullscreen'],
        )  # fmt: skip
        files = gr.File(label='To download', interactive=False, elem_id='files', visible=False)

    def work(*values: Any) -> Iterator[dict]:
      yield {status: '', film: None} | {part: gr.update(visible=False) for part in (sound, picture, files)}
      asked = dict(zip(inputs, values, strict=True))
      for event in _told(studio, asked):
        if isinstance(event, str):
          yield {status: event}
        else:
          paths, silent = event.paths, 'mp4' in event.paths
          yield {
            status: _summary(event),
            film: gr.update(value=paths.get('mp4'), visible=silent),
            sound: gr.update(value=paths['wav'], visible=not silent),
            picture: gr.update(value=paths['png'], visible=True),
            files: gr.update(value=list(paths.values()), visible=True),
          }

    running = make.click(
      work, list(inputs.values()), [status, film, sound, picture, files],
      show_progress='hidden', concurrency_limit=1, api_visibility='private',
    )  # fmt: skip
    # One after the other: what the work told last must not come after the word that it ended.
    stop.click(lambda: None, cancels=[running], queue=False, api_visibility='private').then(
      lambda: '<p>Stopped.</p>', None, status, queue=False, api_visibility='private'
    )
  return page


def _head(bundle: Bundle, limits: Limits) -> str:
  about = ', '.join(str(bundle.about[key]) for key in ('name', 'licence') if bundle.about.get(key))
  return (
    f'# V2Meow\nMusic for a video, made from its pictures. {f"Model: {about}. " if about else ""}'
    f'At most {limits.seconds:g} s; uploads and results are deleted after {limits.minutes:g} minutes.'
  )


def _inputs(pipeline: Pipeline) -> dict[str, Any]:
  """What the models of this pipeline can be asked for, by the name that `_told` knows it by."""
  first = pipeline.stages[0]
  inputs: dict[str, Any] = {'video': gr.Video(label='Video', sources=['upload'], height=280, elem_id='video')}
  styles = [encoder for encoder in pipeline.encoders if isinstance(encoder, StyleEncoder)]
  if styles:
    inputs['prompt'] = gr.Textbox(
      label='What the music should be like', max_length=PROMPT_CHARACTERS, elem_id='prompt'
    )
  if any(encoder.needs == 'audio' for encoder in styles):
    inputs['style'] = gr.File(
      label='or a recording that it should sound like', file_types=['audio'], height=110
    )
  for group in guidance.possible(first.stage):
    inputs[f'guidance {group}'] = gr.Slider(
      0, 10, dict(first.sampling.guidance).get(group, 1.0), step=0.1,
      label=f'Guidance by the {group}', info='1: as the model learned it; more: closer to it',
    )  # fmt: skip
  with gr.Accordion('More', open=False):
    inputs['seed'] = gr.Number(0, label='Seed', precision=0, elem_id='seed')
    inputs['duration'] = gr.Number(
      None, label='Seconds', info='from the start of the video; empty: all of it', elem_id='duration'
    )
    inputs['temperature'] = gr.Slider(
      0, 2, first.sampling.temperature, step=0.05, label=f'Temperature of the {first.stage.name} stage'
    )
  return inputs


def _told(studio: Studio, asked: dict[str, Any]) -> Iterator[str | Made]:
  """HTML while the piece is made or why it is not, and the result."""
  try:
    wanted, sampling = _request(asked), _sampling(studio.pipeline, asked)
    with contextlib.closing(studio.make(wanted, sampling)) as events:
      for event in events:
        yield event if isinstance(event, Made) else _progress(studio.pipeline, event)
  except errors.InputError as error:
    yield _refused(_without_folders(str(error), asked))
  except Exception:  # a fault of this program: the people at the page can do nothing about it
    traceback.print_exc(file=sys.stderr)
    yield _refused('Something went wrong; the log of this server says what.')


def _request(asked: dict[str, Any]) -> Request:
  prompt = (asked.get('prompt') or '').strip() or None
  if asked['video'] is None and prompt is None and asked.get('style') is None:
    raise errors.ConfigError('there is no video yet; upload one')
  seed, duration = int(asked['seed'] or 0), asked['duration'] or None
  return Request(asked['video'], prompt, asked.get('style'), seed=seed, duration=duration)


def _sampling(pipeline: Pipeline, asked: dict[str, Any]) -> dict[str, Sampling]:
  """The bundle's, with what the page changes of the first stage's."""
  first = pipeline.stages[0]
  scales = tuple((key.split()[1], float(asked[key])) for key in asked if key.startswith('guidance '))
  changed = dataclasses.replace(first.sampling, temperature=float(asked['temperature']), guidance=scales)
  return {runner.stage.name: runner.sampling for runner in pipeline.stages} | {first.stage.name: changed}


def _progress(pipeline: Pipeline, working: Working) -> str:
  lines, stages = [], [runner.stage.name for runner in pipeline.stages]
  for name in stages:
    done, total = working.parts.get(name, (0, 0))
    lines.append(
      f'<span>{html.escape(name)}</span><progress value="{done}" max="{total or 1}"></progress>'
      f'<span>{f"window {done} of {total}" if total else "to come"}</span>'
    )
  encoded = [
    100 * done // max(total, 1) for name, (done, total) in working.parts.items() if name not in stages
  ]
  if set(stages) & set(working.parts):
    now = 'Making music'
  else:
    now = f'Looking at the video: {min(encoded)}%' if encoded else 'Waiting, then looking at the video'
  return f'<p>{now}; {html.escape(working.ahead)}</p><div class="stages">{"".join(lines)}</div>'


def _summary(made: Made) -> str:
  parts = ', '.join(f'{html.escape(part)} {value:.1f} s' for part, value in made.seconds.items())
  return f'<p>{made.length:.1f} s of music: {parts}.</p>'


def _refused(message: str) -> str:
  return f'<p class="refused">{html.escape(message)}</p>'


def _without_folders(message: str, asked: dict[str, Any]) -> str:
  """Whoever uploads a file need not know where it lies here."""
  for path in filter(None, (asked.get('video'), asked.get('style'))):
    message = message.replace(str(path), pathlib.Path(path).name)
  return message
