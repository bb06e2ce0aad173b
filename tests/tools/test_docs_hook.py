"""The site: links out of docs/ lead to the forge or become text, pictures come along, nothing comes from elsewhere."""

import logging
import re
import sys
from pathlib import Path

import docs_hook
import pytest

REPOSITORY = Path(docs_hook.__file__).resolve().parents[1]
PAGE = """# A page

[the code](../src/code.py#L3), [src](../src), [`src/code.py`](../src/code.py), [other](other.md#there), [web](https://example.org/x)

![a picture](../pictures/one.png)
"""


@pytest.fixture
def site(tmp_path):
    """Builds a small repository's site; gives the page's HTML, the site's folder and what was warned of."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    for name, text in {"src/code.py": "", "pictures/one.png": "png", "docs/other.md": "# Other\n\n## There\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    warned: list[str] = []

    class Keeps(logging.Handler):
        def emit(self, record):
            warned.append(record.getMessage())

    def made(page=PAGE, **settings):
        (tmp_path / "docs" / "index.md").write_text(page)
        (tmp_path / "mkdocs.yml").write_text("site_name: x\ntheme: mkdocs\nplugins: []\n")
        config = load_config(
            str(tmp_path / "mkdocs.yml"), hooks=[docs_hook.__file__], use_directory_urls=False, **settings
        )
        handler = Keeps(logging.WARNING)
        logging.getLogger("mkdocs").addHandler(handler)
        try:
            build(config)
        finally:
            logging.getLogger("mkdocs").removeHandler(handler)
            sys.modules.pop("docs_hook.py", None)
        html = (tmp_path / "site" / "index.html").read_text()
        return re.sub(r"\s+", " ", html), tmp_path / "site", warned

    return made


def test_without_a_forge_links_to_the_repository_are_text_that_says_where(site):
    html, folder, warned = site()
    assert not warned
    assert (
        '<span class="repository-file" title="src/code.py in the repository">the code (<code>src/code.py</code>)</span>'
        in html
    )
    assert '<span class="repository-file" title="src in the repository">src</span>' in html
    assert '<span class="repository-file" title="src/code.py in the repository"><code>src/code.py</code></span>' in html
    assert 'href="other.html#there"' in html
    assert 'href="https://example.org/x"' in html
    assert 'src="repository/pictures/one.png"' in html
    assert (folder / "repository" / "pictures" / "one.png").read_text() == "png"


def test_with_a_forge_they_lead_there(site):
    html, _, warned = site(repo_url="https://forge.example/us/it", extra={"repository_files": "blob/main/"})
    assert not warned
    assert 'href="https://forge.example/us/it/blob/main/src/code.py#L3">the code</a>' in html
    assert "repository-file" not in html


@pytest.mark.parametrize(
    ("page", "warning"),
    [
        ("[gone](../src/gone.py)", "index.md links to src/gone.py, which the repository does not hold"),
        ("![gone](../pictures/two.png)", "index.md links to pictures/two.png, which the repository does not hold"),
        ("[gone](gone.md)", "gone.md"),
    ],
)
def test_a_link_that_leads_nowhere_is_a_warning(site, page, warning):
    _, _, warned = site(page)
    assert any(warning in line for line in warned)


def test_the_real_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(REPOSITORY / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    pages = {page.stem for page in (REPOSITORY / "docs").glob("*.md")}
    assert pages <= {page.stem for page in tmp_path.glob("*.html")}
    for page in tmp_path.glob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', html)
        loaded += re.findall(r'<link rel="(?:stylesheet|icon|preconnect|preload)"[^>]* href="([^"]+)"', html)
        assert loaded
        assert not [url for url in loaded if re.match(r"(?:https?:)?//", url)], page.name
