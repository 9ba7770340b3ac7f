"""MkDocs hooks: adds the generated reference and the pages outside docs/, and shows the API the package as installed.

Pages under docs/ link to files of the repository as GitHub shows them. A link that leaves docs/ becomes a link to the
copy of that page on the site where there is one, and plain code where there is not.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import reference  # MkDocs puts this folder on sys.path while it loads the hooks

ROOT = Path(__file__).resolve().parents[2]
# File of the repository -> page of the site.
OUTSIDE = {
    "CONTRIBUTING.md": "developing/contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "developing/benchmark-records.md",
    "kernels/variable_aggregation/README.md": "developing/kernel-variable-aggregation.md",
    "kernels/lat_weighted_loss/README.md": "developing/kernel-lat-weighted-loss.md",
    "kernels/ensemble_crps/README.md": "developing/kernel-ensemble-crps.md",
    "kernels/verification_sums/README.md": "developing/kernel-verification-sums.md",
    "data_prep/sample/README.md": "guides/sample.md",
}
# Folders on disk that the installed package holds under another name (pyproject.toml, package-dir).
MAPPED = ("data_prep", "kernels", "launch", "slurm")
_LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^][]|\[[^][]*\])*)\]\((?P<target>[^)\s]+)\)")


def on_startup(*, command: str, dirty: bool) -> None:
    """Lay the package out as it is imported; mkdocstrings drops a search path that does not exist when it starts."""
    package = ROOT / "build" / "docs_package" / "climax_hpc"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        old.unlink()
    for entry in [*(ROOT / "climax_hpc").iterdir(), *(ROOT / name for name in MAPPED)]:
        (package / entry.name).symlink_to(os.path.relpath(entry, package))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the verbs to the navigation."""
    for section in config.nav or []:
        for entry in section.get("Reference", []):
            if "Command line" in entry:
                verbs = [{name: f"reference/cli/{reference.page_name(name)}.md"} for name in reference.SUBCOMMANDS]
                entry["Command line"] = ["reference/cli/index.md", *verbs]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference pages and the Markdown files that live beside their code."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    for source, path in OUTSIDE.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, path, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at pages of the site; links to other files of the repository become plain code."""
    own = {path: source for source, path in OUTSIDE.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def replace(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        file = os.path.normpath(os.path.join(os.path.dirname(own), path))
        there = OUTSIDE.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if there is None or files.get_file_from_path(there) is None:
            if file.startswith("docs/"):
                return match[0]  # MkDocs reports the broken link
            return text if "`" in text else f"`{text}`"
        here = os.path.dirname(page.file.src_uri)
        return f"[{text}]({os.path.relpath(there, here or '.')}{f'#{anchor}' if anchor else ''})"

    return _outside_fences(markdown, lambda part: _LINK.sub(replace, part))


def _outside_fences(markdown: str, change: Any) -> str:
    """Apply `change` to everything but fenced code."""
    parts = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.M | re.S)
    return "".join(part if part.lstrip().startswith("```") else change(part) for part in parts)
