"""What mkdocs does besides: root pages join the site, and links to files outside docs/ lead to the source.

Pages keep links that work where they are read as files. On the site a link from `docs/` to another file of the
repository becomes the address of that file in the source; a link to a file that is not there stops the build.
"""

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SOURCE = "https://github.com/headwise/headwise/blob/main"
ROOT_PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def rewritten(markdown: str, folder: Path) -> str:
    """The text of a page in `folder`, with links that work on the site.

    Raises:
        PluginError: a link leads to no file.
    """

    def link(found: re.Match[str]) -> str:
        target, anchor = (folder / found[1]).resolve(), found[2] or ""
        if not target.exists():
            raise PluginError(f"{folder.relative_to(ROOT) / '*.md'}: the link {found[1]} leads to no file")
        for page, source in ROOT_PAGES.items():
            if target == ROOT / source:
                return page + anchor
        if target.is_relative_to(DOCS):
            return target.relative_to(DOCS).as_posix() + anchor if folder == ROOT else found[0]
        return f"{SOURCE}/{target.relative_to(ROOT).as_posix()}{anchor}"

    return LINK.sub(link, markdown)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages that stand at the root of the repository."""
    for page, source in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=rewritten((ROOT / source).read_text("utf-8"), ROOT)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page in `docs/`."""
    return markdown if page.file.src_uri in ROOT_PAGES else rewritten(markdown, (DOCS / page.file.src_uri).parent)


class OurChoice(Extension):
    """Docstrings mark our own choices with `[our choice]`, which Markdown takes for a link after other brackets."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Put round brackets in place of the square ones."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("[our choice]", "(our choice)")
