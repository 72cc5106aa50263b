"""Expand a path as typed by a user to images: files, folders, globs, lists, archives, braces, URLs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path

from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sets.synthetic.opened import images_of
from vitreg.data.sources.archives import Streamed, is_archive, is_url, open_archive
from vitreg.data.sources.decode import EXTENSIONS
from vitreg.data.sources.parts import Failed, Listed, Locator, OnDisk, Part, label
from vitreg.documents import TABLE_LIMIT, read_lines
from vitreg.errors import UserError
from vitreg.writing.files import missing
from vitreg.writing.ledger import own_files

LISTS = (".txt", ".lst")
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_MAX_BRACES = 1_000_000


def find(path: str) -> list[Part]:
    """Return the parts (runs of images) of one path, see `ImageSource`.

    Raises:
        UserError: if it does not exist or holds no image.
    """
    drawn = named(path)
    if drawn is not None:
        return [images_of(drawn)]
    return [part for expanded in _expanded(path) for part in _find(expanded)]


def _expanded(path: str) -> list[str]:
    doubled = re.sub(r"^([a-z]+):/(?=[^/])", r"\1://", path)  # pathlib makes one slash of two
    return expand_braces(doubled if is_url(doubled) else os.path.expanduser(path))


def refuse_absent(path: str) -> None:
    """Raise UserError for a path without images, as `find` does, but without listing them."""
    if named(path) is not None:
        return
    for each in _expanded(path):
        if is_url(each) or os.path.isfile(each):
            continue
        if os.path.isdir(each):
            with suppress(OSError), os.scandir(each) as entries:  # an unreadable folder is reported later
                if not any(entries):
                    raise UserError(f"the folder '{each}' is empty.")
        elif not os.path.lexists(each) and not any(glob.iglob(each, recursive=True)):
            raise UserError(f"nothing matches '{each}'.") if glob.has_magic(each) else missing(each)


def _find(path: str) -> list[Part]:
    if is_url(path):
        if not path.startswith("pipe:") and path.lower().endswith(tuple(EXTENSIONS)):
            raise UserError(f"'{path}' is an image behind a URL; download it, or name a WebDataset shard (.tar).")
        return [Streamed(path)]
    if os.path.isdir(path):
        return [_folder(path)]
    if os.path.lexists(path):
        return [_file(path)]
    if glob.has_magic(path):
        return _glob(path)
    raise missing(path)


def _file(path: str) -> Part:
    if is_archive(path) and os.path.isfile(path):
        part = open_archive(Path(path))
        if part.length == 0:
            raise UserError(f"no image in the archive '{path}'.")
        return part
    if path.lower().endswith(TABLES):
        raise UserError(
            f"'{path}' is a table, and images are wanted here; name their folder, or a list (.txt) with a file in each line."
        )
    if path.lower().endswith(LISTS) and os.path.isfile(path):
        return Listed(_list(path))
    return Listed([OnDisk(label(path), path)])


def _list(path: str) -> list[Locator]:
    folder = os.path.dirname(path)
    try:
        lines = read_lines(Path(path), limit=TABLE_LIMIT, errors="surrogateescape")
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        return [Failed(label(path), (error.__cause__.strerror or "cannot be opened").lower())]
    lines = [line for line in lines if not line.startswith("#")]
    if not lines:
        raise UserError(f"the list '{path}' names no image.")
    images = [os.path.join(folder, line) for line in lines]
    if not any(map(_exists, images)):
        return [Failed(label(path), f"not an image, and no list of images: there is no file '{label(lines[0][:80])}'")]
    return [OnDisk(label(image), image) for image in images]


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a NUL in the name
        return False


def _folder(top: str, own: Set[str] = frozenset()) -> Listed:
    """List the images of a folder and of those in it; links to images are followed, links to folders only by name.

    A link to a folder may lead to the whole file system, or back up; inside `top` its images are already listed.
    Pictures that vitreg wrote (`own`, and those on the folders' lists) are results, not images: otherwise a second scan
    of a folder would scan the figures of the first.
    """
    found: list[Locator] = []
    others: list[str] = []
    links: list[str] = []
    own, left_out = set(own), 0
    stack = [(top, True)]
    while stack:
        path, is_folder = stack.pop()
        if not is_folder:
            if path in own:
                left_out += 1
            elif os.path.splitext(path)[1].lower() in EXTENSIONS:
                found.append(OnDisk(label(path), path))
            else:
                others.append(path)
            continue
        try:
            with os.scandir(path) as entries:
                inside = sorted(
                    (entry.path, entry.is_symlink() and os.path.isdir(entry.path), entry.is_dir(follow_symlinks=False))
                    for entry in entries
                    if not entry.name.startswith(".")
                )
            own |= own_files(path, EXTENSIONS)
            links += [path for path, leads_away, _ in inside if leads_away]
            stack += [(path, is_folder) for path, leads_away, is_folder in reversed(inside) if not leads_away]
        except OSError as error:
            found.append(Failed(label(path), f"folder: {(error.strerror or 'cannot be read').lower()}"))
    note = (
        f"{_count(links, 'link')} to folders in '{label(top)}' not followed, such as '{label(links[0])}'"
        if links
        else ""
    )
    results = (_left_out(left_out, top),) if left_out else ()
    if found:
        return Listed(found, (*((f"{note}; name what is wanted of them.",) if links else ()), *results))
    if links:
        raise UserError(f"no image in the folder '{top}', but {note}; name it.")
    if left_out:
        raise UserError(f"no image in the folder '{top}' but what vitreg wrote itself; name a file or folder of that.")
    archives = [path for path in others if is_archive(path)]
    if archives:
        raise UserError(f"no image in the folder '{top}', but archives: name them, such as '{sorted(archives)[0]}'.")
    if others:
        raise UserError(
            f"no image in the folder '{top}': {_count(others, 'other file')}, such as '{os.path.basename(others[0])}'."
        )
    raise UserError(f"the folder '{top}' is empty.")


def _glob(pattern: str) -> list[Part]:
    matches = matching(pattern)
    if not matches:
        raise UserError(f"nothing matches '{pattern}'.")
    # A pattern with an explicit extension matches any extension.
    spelled = os.path.splitext(pattern)[1].lower()
    wanted = tuple(EXTENSIONS) if not spelled or glob.has_magic(spelled) else (*EXTENSIONS, spelled)
    parts: list[Part] = []
    own = _own(pattern, matches)
    left_out = sum(match in own for match in matches)
    for match in matches:
        with suppress(UserError):  # one of many folders or archives may be without images
            if os.path.isdir(match):
                if "**" not in pattern:  # else its files match by themselves
                    parts.append(_folder(match, own))
            elif match in own:
                continue
            elif is_archive(match) or match.lower().endswith(wanted):
                parts.append(_file(match))
    if not parts:
        raise UserError(f"no image matches '{pattern}': {_count(matches, 'other file')}, such as '{matches[0]}'.")
    return [*parts, Listed([], (_left_out(left_out, pattern),))] if left_out else parts


def _own(pattern: str, matches: Sequence[str]) -> set[str]:
    """Return the pictures that vitreg wrote into folders matched by a glob; files that it names explicitly are kept."""
    named = pattern
    while glob.has_magic(named):
        named = os.path.dirname(named)
    through: set[str] = set()
    for folder in {os.path.dirname(match) for match in matches}:
        while len(folder) >= len(named.rstrip("/")) and folder not in through:
            through.add(folder)
            folder = os.path.dirname(folder)
    return set().union(*(own_files(folder, EXTENSIONS) for folder in through))


def _left_out(count: int, where: str) -> str:
    return (
        f"{count} picture{'s' if count > 1 else ''} in '{label(where)}' that vitreg wrote itself left out; name a file, or "
        "the folder it lies in, to have it read."
    )


def matching(pattern: str) -> list[str]:
    """Return the matches of a glob, sorted. `**` does not follow links to folders: two that lead back up would never
    end."""
    before, recursive, after = pattern.rpartition("**/")
    if not recursive and pattern.endswith("**"):
        before, recursive, after = pattern[:-2], "**", "*"
    if not recursive or (before and not before.endswith("/")):
        return sorted(glob.glob(pattern))
    found: set[str] = set()
    for top in matching(before) if before else ["."]:
        for folder, inside, _ in os.walk(top):
            inside[:] = [name for name in inside if not name.startswith(".")]
            place = glob.escape(os.path.join("" if folder == "." else folder.removeprefix("./"), ""))
            found.update(glob.glob(place + after))
    return sorted(found)


def _count(paths: Sequence[str], what: str) -> str:
    return f"{len(paths)} {what}{'s' if len(paths) > 1 else ''}"


_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)$")


def expand_braces(path: str) -> list[str]:
    """Expand `{000..009}` and `{a,b}` as a shell does, for a path that does not exist as it is spelled."""
    if "{" not in path or (not is_url(path) and os.path.lexists(path)):
        return [path]
    expanded = [""]
    position = 0
    for braces in _BRACES.finditer(path):
        numbers = _NUMBERS.match(braces[1])
        if numbers:
            first, last = int(numbers[1]), int(numbers[2])
            if abs(last - first) >= _MAX_BRACES:
                raise UserError(f"'{braces[0]}' stands for more than {_MAX_BRACES} names.")
            digits = max(map(len, numbers.groups())) if any(n != "0" and n[0] == "0" for n in numbers.groups()) else 0
            order = range(first, last + 1) if first <= last else range(first, last - 1, -1)
            choices = [f"{number:0{digits}d}" for number in order]
        elif "," in braces[1]:
            choices = braces[1].split(",")
        else:
            choices = [braces[0]]
        between = path[position : braces.start()]
        position = braces.end()
        if len(expanded) * len(choices) > _MAX_BRACES:
            raise UserError(f"the braces of '{path}' stand for more than {_MAX_BRACES} names.")
        expanded = [name + between + choice for name in expanded for choice in choices]
    return [name + path[position:] for name in expanded]
