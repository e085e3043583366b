"""Hooks of mkdocs: pages made of what lies elsewhere in the repository, and links that fit both."""

import ast
import logging
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gmm_diffusion"
# Path in the repository -> page of the site; what lies in docs/ keeps its name.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
# Code, in which nothing is a link, or a link or picture.
LINK = re.compile(r"```.*?```|`[^`]*`|(!?)\[([^\]]*)\]\(([^)\s]+)\)", re.DOTALL)
# Script, style, font or picture of another host; a link that a reader may follow is none.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|link(?![^>]*canonical))\b[^>]*?(?:src|href)="?(https?://[^">]+)"""
)

log = logging.getLogger("mkdocs.hooks.site")


def code_pages():
    """Page -> modules of one folder of the package; the top folder's own files first."""
    pages = {"code/gmm_diffusion.md": sorted(PACKAGE.glob("*.py"))}
    for folder in sorted(p for p in PACKAGE.rglob("*") if (p / "__init__.py").is_file()):
        name = ".".join(folder.relative_to(PACKAGE).parts)
        pages[f"code/{name}.md"] = sorted(folder.glob("*.py"))
    return pages


def module_name(path):
    """Dotted name of a module from its file; a folder's for its `__init__.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_names(path):
    """Public functions and classes that a file defines itself, not what it passes on."""
    nodes = ast.parse(path.read_text()).body
    named = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node.name for node in named if not node.name.startswith("_")]


def on_config(config):
    """Lists the code's pages."""
    (code,) = [entry for entry in config.nav if "Code" in entry]
    code["Code"] = [{posixpath.basename(page)[:-3]: page} for page in code_pages()]
    return config


def on_files(files, config):
    """Adds the pages that are not in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for page, paths in code_pages().items():
        text = f"# {posixpath.basename(page)[:-3]}\n"
        for path in paths:
            text += f"\n::: {module_name(path)}\n"
            if path.name == "__init__.py":
                own = f"members: {own_names(path)}, show_root_heading: false"
                text += f"    options: {{{own}}}\n"
        files.append(File.generated(config, page, content=text))
    return files


def _target(path):
    """The page, or page and heading, of a path in the repository; None where there is none."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("gmm_diffusion/") and path.endswith(".py"):
        file = ROOT / path
        for page, paths in code_pages().items():
            if file in paths:
                return f"{page}#{module_name(file)}"
    return None


def on_page_markdown(markdown, page, config, files):
    """Turns links of the repository into links of the site, and those without a page into text."""
    sources = {page: source for source, page in PAGES.items()}
    here = page.file.src_uri
    folder = posixpath.dirname(sources.get(here, f"docs/{here}"))

    def replace(match):
        picture, text, link = match.groups()
        if link is None:
            return match[0]
        path, _, heading = link.partition("#")
        if not path or "://" in link or link.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, path))
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which is not in the repository", here, link)
        target = _target(path)
        if target is None:
            return text
        target = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return f"{picture}[{text}]({target}{'#' + heading if heading else ''})"

    return LINK.sub(replace, markdown)


def on_post_page(output, page, config):
    """A page that loads something from elsewhere is a warning."""
    for address in LOADED.findall(output):
        log.warning("%s loads %s", page.file.src_uri, address)
    return output
