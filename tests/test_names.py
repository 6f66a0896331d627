"""Names from outside: what can be that of a file, what it becomes where it cannot, and how it is shown."""

import os

import pytest

from v2meow_jax import errors, names

BAD = {
  '': 'is empty', ' a': 'space', '.hidden': "'.'", '-rf': "'-'", 'a/b': "'/'", 'a\\b': 'holds',
  'a\nb': 'holds',
  'a\0b': 'holds', 'a\x1b[31m': 'holds', 'con': 'Windows', 'LPT1.x': 'Windows', '字' * 67: 'longer than 200',
  'a\udcffb': 'holds',
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_a_name_that_no_file_should_have_is_refused_with_the_reason_and_can_be_made_safe(name, tmp_path):
  assert BAD[name] in names.fault(name)
  with pytest.raises(errors.DatasetError, match='no file can have it'):
    names.check(name)
  safe = names.safe(name)
  assert not names.fault(safe)
  (tmp_path / f'{safe}.json').write_text('{}')


@pytest.mark.parametrize('name', ['a', 'Träumerei (take 2)', '$x_1$', '字' * 66, 'a.b.c', 'スロー'])
def test_a_name_that_a_file_can_have_stays(name):
  assert names.check(name) == name == names.safe(name)


def test_what_could_act_on_a_terminal_is_shown_as_an_escape():
  assert names.shown('a\x1b]0;title\x07b\u202ec') == 'a\\x1b]0;title\\x07b\\u202ec'
  assert names.shown(os.fsdecode(b'a\xffb')) == 'a\\udcffb'
  assert names.shown(b'a\xffb') == 'a\\udcffb'
  assert names.shown('Träumerei\nスロー') == 'Träumerei\nスロー'
