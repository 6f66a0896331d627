"""A picture of the page of `v2meow serve` with a film that it made, taken in Chromium.

v2meow serve --bundle data/bach --examples data/demo &
python tools/picture_page.py http://127.0.0.1:7860 data/demo/big_buck_bunny.mp4 docs/page.png
"""

import argparse
import os
import pathlib
import shutil
import time

from playwright import sync_api


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('url')
  parser.add_argument('video', type=pathlib.Path)
  parser.add_argument('out', type=pathlib.Path, help='PNG')
  parser.add_argument('--working', type=pathlib.Path, help='PNG of the page while the second stage works')
  args = parser.parse_args()
  chromium = shutil.which('chromium') or shutil.which('google-chrome')
  with sync_api.sync_playwright() as driver:
    # Root, as in containers, has no sandbox.
    options = [] if os.geteuid() else ['--no-sandbox']
    browser = driver.chromium.launch(executable_path=chromium, args=options)
    page = browser.new_page(viewport={'width': 1280, 'height': 720})
    page.goto(args.url)
    page.set_input_files('#video input[type=file]', str(args.video))
    page.wait_for_selector('#video video')
    page.evaluate("document.querySelector('#video video').currentTime = 5")
    began = time.perf_counter()
    page.click('#make')
    page.wait_for_selector('#status .stages')
    page.wait_for_function("document.querySelectorAll('#status progress')[1].value > 0", timeout=600_000)
    if args.working:
      page.screenshot(path=args.working)
    page.wait_for_selector('#film video', timeout=3_600_000)
    print(f'{time.perf_counter() - began:.1f} s from the button to the film')
    page.wait_for_function("document.querySelector('#film video').currentTime > 4")
    page.screenshot(path=args.out, full_page=True)
    browser.close()


if __name__ == '__main__':
  main()
