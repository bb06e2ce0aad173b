"""What MkDocs is told of the repository around docs/: links and pictures that lead out of it.

On a forge docs/ is read beside the rest, so its pages link to files of the repository by relative paths. On the site,
such a picture is copied, and such a link leads to the forge that mkdocs.yml names as `repo_url`; else it is text.
A target that does not exist is a warning, and so an error under `strict`.
"""

import logging
import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element

from markdown import Extension, Markdown  # type: ignore[import-untyped]
from markdown.treeprocessors import Treeprocessor  # type: ignore[import-untyped]
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

COPIES = "repository"
"""Folder of the site for what is copied from outside docs/."""

_PRIORITY = 10
"""Among Markdown's tree processors: its inline patterns (20) have made the links, MkDocs' own check (0) comes later."""

_log = logging.getLogger("mkdocs.hooks.repository")


class Repository(Treeprocessor):
    """Deals with links out of docs/ in the page at hand.

    Attributes:
        page: The page being rendered.
        files: All files of the site.
        config: Of the site.
    """

    page: Page
    files: Files
    config: MkDocsConfig

    def run(self, root: Element) -> None:
        """Look at every link and picture of the page."""
        for element in [*root.iter("a"), *root.iter("img")]:
            attribute = "href" if element.tag == "a" else "src"
            url = urlsplit(element.get(attribute, ""))
            path = self._outside(url.path) if not url.scheme and not url.netloc else None
            if path is None:
                continue
            if not (_root(self.config) / path).exists():
                _log.warning("%s links to %s, which the repository does not hold", self.page.file.src_uri, path)
            elif element.tag == "img":
                element.set("src", self._copied(path))
            else:
                self._lead(element, path, url.fragment)

    def _outside(self, target: str) -> str | None:
        """The path in the repository of a target outside docs/; None for one within."""
        if not target or target.startswith("/"):
            return None
        here = posixpath.join(Path(self.config.docs_dir).name, posixpath.dirname(self.page.file.src_uri))
        path = posixpath.normpath(posixpath.join(here, target))
        return None if path.split("/")[0] == Path(self.config.docs_dir).name else path

    def _copied(self, path: str) -> str:
        """The source path, seen from the page, of a picture that is put into the site."""
        copy = posixpath.join(COPIES, path)
        if self.files.get_file_from_path(copy) is None:
            self.files.append(File.generated(self.config, copy, abs_src_path=str(_root(self.config) / path)))
        return posixpath.relpath(copy, posixpath.dirname(self.page.file.src_uri) or ".")

    def _lead(self, link: Element, path: str, fragment: str) -> None:
        """Lead a link to the forge, or make it text that says where the file is."""
        if self.config.repo_url:
            below = posixpath.join(self.config.repo_url, self.config.extra.get("repository_files", ""), path)
            link.set("href", f"{below}#{fragment}" if fragment else below)
            return
        text = "".join(link.itertext())
        link.tag = "span"
        link.attrib.clear()
        link.set("class", "repository-file")
        link.set("title", f"{path} in the repository")
        if not path.startswith(text.strip("./")) and not path.endswith(f"/{text}"):
            code = Element("code")
            code.text, code.tail = path, ")"
            if len(link):
                link[-1].tail = f"{link[-1].tail or ''} ("
            else:
                link.text = f"{link.text or ''} ("
            link.append(code)


class RepositoryExtension(Extension):
    """Registers `Repository` with Markdown."""

    def __init__(self) -> None:
        super().__init__()
        self.processor = Repository()

    def extendMarkdown(self, md: Markdown) -> None:
        """Put it between Markdown's inline patterns and MkDocs' check of links."""
        self.processor.md = md
        md.treeprocessors.register(self.processor, "repository", _PRIORITY)


_extension = RepositoryExtension()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the extension."""
    extensions: list[Any] = config.markdown_extensions
    extensions.append(_extension)
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Tell the extension which page comes next."""
    _extension.processor.page, _extension.processor.config, _extension.processor.files = page, config, files
    return markdown


def _root(config: MkDocsConfig) -> Path:
    return Path(config.docs_dir).parent
