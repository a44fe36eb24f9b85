"""Check that the code and the documentation are written in plain words.

Run `python tools/check_wording.py` for the limits of the project, or with folders or files to list
what counts in them. Exits with 1 where a limit is exceeded.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VAGUE = re.compile(r"(?<![A-Za-z])(?:told|tells?|said)(?![A-Za-z])", re.IGNORECASE)
MOST_VAGUE = 40
CLAUSE = re.compile(r"(?:What|Whether|Of|One)\b")
MOST_CLAUSES = 20
LEAST_COMMENTS, MOST_COMMENTS = 4.0, 10.0  # percent of all lines
MOST_WORDS = 35  # in a sentence of the documentation
MOST_SEMICOLONS = 8.0  # in 100 sentences of it
DIRECTIVE = re.compile(r"#\s*(?:noqa|type:|fmt:|pragma)")
PROSE_STARTS = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )")
NO_PROSE = re.compile(r"    |#|\||<|!\[")
ENDS = re.compile(r"(?<=[.!?:])\s+(?=[A-Z*`\"(])|(?<=[。！？])")

Place = tuple[Path, int, str]
"""A file, a line of it, and what stands there."""


def sources(folder: Path) -> list[Path]:
    """Return the Python files of a folder, or the one that is named."""
    return [folder] if folder.is_file() else sorted(folder.rglob("*.py"))


def pages() -> list[Path]:
    """Return the Markdown files of the documentation."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def vague_words(path: Path) -> Iterator[Place]:
    """Yield each word that stands for "log", "return", "report" or "message"."""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        yield from ((path, number, line.strip()) for _ in VAGUE.findall(line))


def comments(path: Path) -> Iterator[Place]:
    """Yield each comment that is not a directive to a tool."""
    reader = io.StringIO(path.read_text("utf-8")).readline
    for token in tokenize.generate_tokens(reader):
        if token.type == tokenize.COMMENT and not DIRECTIVE.match(token.string):
            yield path, token.start[0], token.string


def clauses(path: Path) -> Iterator[Place]:
    """Yield each docstring whose first word makes it a relative clause instead of a sentence."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, kinds):
            text = ast.get_docstring(node) or ""
            if CLAUSE.match(text):
                yield path, getattr(node, "lineno", 1), text.splitlines()[0]


def sentences(path: Path) -> Iterator[Place]:
    """Yield each sentence of a page's prose, without code blocks, tables and headings."""
    page = path.read_text("utf-8")
    blanked = re.sub(r"^```.*?^```|<!--.*?-->", _blank, page, flags=re.S | re.M)
    start = 0
    for block in [*PROSE_STARTS.split(blanked)]:
        number = blanked.count("\n", 0, blanked.find(block, start)) + 1
        start = blanked.find(block, start) + len(block)
        lines = [line for line in block.splitlines() if line.strip()]
        if not lines or NO_PROSE.match(lines[0]):
            continue
        text = re.sub(r"`[^`]*`", "code", " ".join(line.strip() for line in lines))
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
        text = re.sub(r"^(?:[-*]|\d+\.) ", "", text)
        yield from ((path, number, each) for each in ENDS.split(text) if each.strip())


def _blank(match: re.Match[str]) -> str:
    return "\n" * match.group().count("\n")


def listed(folders: list[Path]) -> None:
    """Print what counts in some folders or files."""
    for folder in folders:
        if folder.suffix == ".md":
            found = [(p, n, f"{len(s.split())} words: {s}") for p, n, s in sentences(folder)
                     if len(s.split()) > MOST_WORDS or ";" in s]  # fmt: skip
            show(found)
            continue
        for path in sources(folder):
            show([*vague_words(path), *clauses(path)])
        paths = sources(folder)
        num_lines = sum(len(path.read_text("utf-8").splitlines()) for path in paths)
        num_comments = sum(len([*comments(path)]) for path in paths)
        print(f"{folder}: {num_comments} comments, {100 * num_comments / num_lines:.1f} % of lines")


def show(places: list[Place]) -> None:
    """Print places as editors and terminals link them."""
    for path, number, text in places:
        print(f"{path.relative_to(ROOT)}:{number}: {text}")


def main() -> int:
    """Print each figure with its limit; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=lambda text: Path(text).resolve())
    if folders := parser.parse_args().folders:
        listed(folders)
        return 0
    paths = [*sources(ROOT / "aigc_ops"), *sources(ROOT / "flows")]
    num_lines = sum(len(path.read_text("utf-8").splitlines()) for path in paths)
    commented = 100 * sum(len([*comments(path)]) for path in paths) / num_lines
    prose = [text for page in pages() for _, _, text in sentences(page)]
    longest = max(len(text.split()) for text in prose)
    semicolons = 100 * sum(text.count(";") for text in prose) / len(prose)
    templates = sorted((ROOT / "aigc_ops").rglob("*.html"))
    vague = sum(len([*vague_words(path)]) for path in [*paths, *templates])
    relative = sum(len([*clauses(path)]) for path in paths)
    figures = (
        ("words told, tell(s), said", vague, vague <= MOST_VAGUE, f"at most {MOST_VAGUE}"),
        ("docstrings that begin with What, Whether, Of, One", relative, relative <= MOST_CLAUSES,
         f"at most {MOST_CLAUSES}"),
        ("percent of lines with a comment", round(commented, 1),
         LEAST_COMMENTS <= commented <= MOST_COMMENTS, f"{LEAST_COMMENTS:g} to {MOST_COMMENTS:g}"),
        ("words in the longest sentence of the docs", longest, longest <= MOST_WORDS,
         f"at most {MOST_WORDS}"),
        ("semicolons in 100 sentences of the docs", round(semicolons, 1),
         semicolons <= MOST_SEMICOLONS, f"at most {MOST_SEMICOLONS:g}"),
    )  # fmt: skip
    for what, value, is_met, limit in figures:
        print(f"{'ok  ' if is_met else 'FAIL'} {value:>6} {what} ({limit})")
    return 0 if all(is_met for _, _, is_met, _ in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
