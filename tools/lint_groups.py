#!/usr/bin/env python3
"""Runs clang-tidy over groups of C++ files, each group as one translation unit.

clang-tidy walks through every declaration of every header for each translation unit, and LibTorch's take it some 25 seconds; our own
lines take one. So files that have the same compile command and no name of an anonymous namespace in common are put one after another
into one file, and what is found there is told with the place it came from. A group that does not compile is checked file by file.

usage: lint_groups.py BUILD JOBS FILE...   (BUILD has compile_commands.json; paths are relative to the current folder)
"""
import concurrent.futures
import json
import pathlib
import re
import shlex
import subprocess
import sys

LARGEST = 16  # files of a group: memory and the time until the first answer stay small
NAMESPACE = re.compile(r"^namespace\s+([\w:]*)\s*\{")
DECLARED = re.compile(r"(?:\b(?:struct|class|enum class|enum|union|concept)\s+(\w+)|\b(\w+)\s*(?:\(|=|\{|;|\[)|^TEST(?:_[FP])?\((\w+, \w+)\))")
INCLUDE = re.compile(r'^#include\s+([<"][^>"]+[>"])')


def hidden_names(text):
    """Names declared at the top of anonymous namespaces, with the namespaces around them. Too many are harmless."""
    names, around = set(), []
    for line in text.splitlines():
        opened = NAMESPACE.match(line)
        if opened:
            around.append(opened.group(1))
        elif line.startswith("}  // namespace") and around:
            around.pop()
        elif line and not line[0].isspace() and not line.startswith(("//", "#", "}")):
            scope = "::".join(name for name in around if name)
            hidden = "" in around or line.startswith(("static ", "TEST", "int main("))
            for found in DECLARED.finditer(line):
                if hidden:
                    names.add(scope + "::" + next(name for name in found.groups() if name))
    return names


def compile_commands(build):
    """file → its arguments without the compiler, the input and the output."""
    commands = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        kept, skip = [], False
        for word in words[1:]:
            if skip or word in ("-c", "-o"):
                skip = word == "-o"
                continue
            if word != entry["file"]:
                kept.append(word)
        commands[entry["file"]] = tuple(kept)
    return commands


def groups_of(files, commands):
    groups = []  # [arguments, names, files]
    for file in files:
        names = hidden_names(file.read_text())
        arguments = commands[str(file.resolve())]
        for group in groups:
            if group[0] == arguments and len(group[2]) < LARGEST and not (group[1] & names):
                group[1] |= names
                group[2].append(file)
                break
        else:
            groups.append([arguments, set(names), [file]])
    return [(list(arguments), members) for arguments, _, members in groups]


def joined(members, target):
    """Writes the members one after another; returns the origin (file, line) of every line."""
    lines, origins, included = [], [], set()
    for member in members:
        own = set()
        for number, line in enumerate(member.read_text().splitlines(), 1):
            include = INCLUDE.match(line)
            # A header beside the member is not beside the group.
            beside = member.parent / include.group(1).strip('"') if include else member.parent
            if beside.is_file():
                line = f'#include "{beside.resolve()}"'
                include = INCLUDE.match(line)
            # What an earlier member includes is there already; a repetition within one file is that file's mistake and stays.
            if include and include.group(1) in included:
                line = ""
            elif include:
                own.add(include.group(1))
            lines.append(line)
            origins.append((member, number))
        included |= own
    target.write_text("\n".join(lines) + "\n")
    return origins


def tidy(path, arguments):
    command = ["clang-tidy-14", "--quiet", f"--config-file={pathlib.Path('.clang-tidy').resolve()}", str(path), "--", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check(number, arguments, members, folder):
    """Returns what was found, as text: empty where nothing was."""
    if len(members) > 1:
        path = folder / f"group_{number}.cpp"
        origins = joined(members, path)
        done = tidy(path.resolve(), arguments)
        if done.returncode == 0:
            return ""

        def back(match):
            member, line = origins[min(int(match.group(1)), len(origins)) - 1]
            return f"{member}:{line}:"

        output = re.sub(re.escape(str(path.resolve())) + r":(\d+):", back, done.stdout)
        if "clang-diagnostic-error" not in output:
            return output or done.stderr
        # The file that the error stands in is checked alone, and the others again as one.
        error = next(line for line in output.splitlines() if "clang-diagnostic-error" in line)
        print(f"lint: {len(members)} files do not compile as one: {error}", flush=True)
        alone = [member for member in members if error.startswith(f"{member}:")]
        others = [member for member in members if member not in alone]
        if alone and others:
            return check(number, arguments, others, folder) + check(number, arguments, alone, folder)
    found = ""
    for member in members:
        done = tidy(member.resolve(), arguments)
        if done.returncode != 0:
            found += done.stdout or done.stderr
    return found


def main():
    build, jobs = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    commands = compile_commands(build)
    # Files that are in no target of this configuration have no compile command.
    files = [path for path in map(pathlib.Path, sys.argv[3:]) if str(path.resolve()) in commands]
    if not files:
        sys.exit("lint: none of the files is compiled: " + " ".join(sys.argv[3:]))
    folder = build / "groups"
    folder.mkdir(exist_ok=True)
    groups = groups_of(files, commands)
    found, checked = 0, 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(check, number, *group, folder): group for number, group in enumerate(groups)}
        for done in concurrent.futures.as_completed(waiting):
            checked += len(waiting[done][1])
            if done.result():
                found += 1
                print(done.result(), flush=True)
            print(f"lint: {checked} of {len(files)} files, now {waiting[done][1][0]} …", flush=True)
    if found:
        sys.exit("lint: clang-tidy found something (see above)")
    print(f"clang-tidy is content with {len(files)} files")


if __name__ == "__main__":
    main()
