"""The page's own tests: its arithmetic by Vitest, and the whole of it by Playwright in Chromium with real servers."""

import os
import shutil
import sys
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """The packages that package-lock.json names are in clients/web/node_modules."""
    if not shutil.which("npm"):
        pytest.skip("the page is NOT TESTED: npm is not here")
    process = processes.run([ROOT / "scripts" / "web"])
    if process.returncode:
        pytest.skip(f"the page is NOT TESTED: npm ci failed, {process.stderr[-500:]}")


def run(script: str, **variables: str | Path) -> processes.Completed:
    """One of the scripts of clients/web, which prints no colours."""
    environment = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "0", **{k: str(v) for k, v in variables.items()}}
    return processes.run([ROOT / "scripts" / "web", script], env=environment)


def test_shares_contrasts_and_links_are_right() -> None:
    """Vitest finds every sum of the page to add up, and links to give the view that they were made of."""
    process = run("test")
    assert process.returncode == 0, process.stdout + process.stderr


def test_page_works_in_a_browser(repository: Path) -> None:
    """Upload, choice, pointing, keyboard, phones, dark mode, every kind of error, and axe finds nothing serious."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.skip(f"the page is NOT TESTED in a browser: none of {', '.join(BROWSERS)} is here")
    process = run("e2e", HEADWISE_BROWSER=browser, HEADWISE_PYTHON=sys.executable, HEADWISE_REPOSITORY=repository)
    assert process.returncode == 0, process.stdout + process.stderr
    print(process.stdout)
