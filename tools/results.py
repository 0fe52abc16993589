"""Runs the experiments of docs/experiments.yml; makes docs/results.md, results.json and curves from their logs.

    python tools/results.py run voc bccd       # those; what has been run already is skipped
    python tools/results.py table              # from the logs of all that have been run here

Figures whose logs are not here stay as they stand in docs/results.json.
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from curves import compare_curves
from mmengine.fileio import load

from mnv2_backbone.errors import UserError, whole_file

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
RUNS = ROOT / 'work_dirs/results'
#: What identifies a figure from one making of the table to the next.
IDENTITY = ('task', 'model', 'data', 'metric')


def machine() -> str:
    """What computes here."""
    cpuinfo = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.+)', cpuinfo.read_text()) if cpuinfo.is_file() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    name = found[1] if found else platform.processor() or platform.machine()
    return f'{cores} core{"s" if cores != 1 else ""} of {name}'


def run(experiment: Mapping[str, Any]) -> None:
    """Runs the commands of an experiment, one after the other; those that were ended well are not run again."""
    folder = RUNS / experiment['name']
    folder.mkdir(parents=True, exist_ok=True)
    for number, (command, done) in enumerate(zip(experiment['commands'], marks(experiment))):
        if done.is_file():
            continue
        print(f'{experiment["name"]}: {command}', flush=True)
        words = [str(folder) if word == 'OUT' else word for word in shlex.split(command.replace('OUT/', f'{folder}/'))]
        began = time.monotonic()
        with (folder / f'log_{number}.txt').open('w') as log:
            status = subprocess.run(
                [sys.executable, *words[1:]] if words[0] == 'python' else words, cwd=ROOT, stdout=log, stderr=log
            ).returncode
        if status:
            raise UserError(f'{experiment["name"]}: exit status {status}, see {log.name}')
        with whole_file(done) as draft:
            draft.write_text(json.dumps(dict(seconds=round(time.monotonic() - began), machine=machine())))


def flat(node: Any, path: str = '') -> dict[str, float]:
    """The numbers in nested objects, by keys joined with slashes."""
    if isinstance(node, Mapping):
        return {key: value for name, child in node.items() for key, value in flat(child, f'{path}/{name}').items()}
    return {path.removeprefix('/'): node} if isinstance(node, (int, float)) else {}


def scores(path: Path) -> dict[str, float]:
    """The numbers of a file of scores; of mmengine's log of a training those of its last evaluation."""
    text = path.read_text()
    return flat(json.loads(text.splitlines()[-1] if path.name == 'scalars.json' else text))


def identity(experiment: Mapping[str, Any], figure: Mapping[str, Any]) -> dict[str, str]:
    """What tells a figure from all others, by the names in :data:`IDENTITY`."""
    values = (experiment['task'], figure['model'], figure.get('data') or experiment['data'], figure['metric'])
    return dict(zip(IDENTITY, values))


def marks(experiment: Mapping[str, Any]) -> list[Path]:
    """What its commands leave when they end well."""
    return [RUNS / experiment['name'] / f'done_{number}.json' for number in range(len(experiment['commands']))]


def figures(experiment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures of an experiment, from its logs; none where it has not been run to its end here."""
    folder = RUNS / experiment['name']
    if not all(mark.is_file() for mark in marks(experiment)):
        return []
    facts = [json.loads(mark.read_text()) for mark in marks(experiment)]
    rows = []
    for figure in experiment['figures']:
        files = sorted(folder.glob(figure['scores']))
        values = [figure.get('scale', 1) * scores(path)[figure['key']] for path in files]
        if not values:
            raise UserError(f'{experiment["name"]}: no {figure["scores"]} in {folder}')
        rows.append(
            dict(
                **identity(experiment, figure),
                mean=round(mean(values), 4),
                std=round(stdev(values), 4) if len(values) > 1 else None,
                runs=len(values),
                command='\n'.join(experiment['commands']),
                seconds=sum(fact['seconds'] for fact in facts),
                machine=facts[-1]['machine'],
            )
        )
    return rows


def collect(experiments: list[dict[str, Any]], known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All figures, in the order of the experiments: from logs where there are some, else as they are known."""
    before = {tuple(row[name] for name in IDENTITY): row for row in known}
    rows = []
    for experiment in experiments:
        names = [tuple(identity(experiment, figure).values()) for figure in experiment['figures']]
        rows += figures(experiment) or [before[name] for name in names if name in before]
    return rows


def as_markdown(document: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """docs/results.md: for each task its text, its figures, what others publish, and the commands."""
    parts = ['# Results', document['about'].strip()]
    for task in document['tasks']:
        own = [row for row in rows if row['task'] == task['name']]
        if not own:
            continue
        parts.append(f'## {task["name"]}')
        if 'before' in task:
            parts.append(task['before'].strip())
        lines = ['| model | data | metric | mean | spread | runs | made by |', '| --- ' * 7 + '|']
        commands = list(dict.fromkeys(row['command'] for row in own))
        for row in own:
            spread = '' if row['std'] is None else f'± {row["std"]:.3g}'
            lines.append(
                f'| {row["model"]} | {row["data"]} | {row["metric"]} | {row["mean"]:.4g} | {spread} | {row["runs"]} '
                f'| ({commands.index(row["command"]) + 1}) |'
            )
        lines += [
            f'| *{other["model"]}* | *{other["data"]}* | {other["metric"]} | *{other["value"]}* | | '
            f'| *published: {other["source"]}* |'
            for other in task.get('published', ())
        ]
        parts.append('\n'.join(lines))
        picture = task.get('curves', {}).get('picture')
        if picture and (DOCS / picture).is_file():
            parts.append(f'![Training loss and {task["curves"]["score"]} of every run]({picture})')
        for number, command in enumerate(commands, start=1):
            row = next(row for row in own if row['command'] == command)
            parts.append(f'({number}) {row["seconds"] / 60:.0f} minutes in all on {row["machine"]}:')
            parts.append(f'```bash\n{command}\n```')
        if 'after' in task:
            parts.append(task['after'].strip())
    return '\n\n'.join(parts) + '\n'


def draw(task: Mapping[str, Any], experiments: list[dict[str, Any]]) -> None:
    """Draws the curves of a task, where the logs of all its runs are here."""
    curves = task['curves']
    sources = {folders.partition('/')[0] for folders in curves['runs'].values()}
    if all(mark.is_file() for one in experiments if one['name'] in sources for mark in marks(one)):
        runs = {name: sorted(RUNS.glob(folders)) for name, folders in curves['runs'].items()}
        compare_curves(runs, curves['score'], DOCS / curves['picture'])


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('action', choices=('run', 'table'))
    parser.add_argument('names', nargs='*', help='experiments to run (default: all)')
    args = parser.parse_args()
    document = load(DOCS / 'experiments.yml')
    experiments = document['experiments']
    known = [experiment['name'] for experiment in experiments]
    try:
        for name in args.names:
            if name not in known:
                raise UserError(f'{name}: no such experiment; allowed are {", ".join(known)}')
        if args.action == 'run':
            for experiment in experiments:
                if not args.names or experiment['name'] in args.names:
                    run(experiment)
            return 0
        path = DOCS / 'results.json'
        rows = collect(experiments, json.loads(path.read_text()) if path.is_file() else [])
        for task in document['tasks']:
            if 'curves' in task:
                draw(task, experiments)
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    with whole_file(path) as draft:
        draft.write_text(json.dumps(rows, indent=1) + '\n')
    with whole_file(DOCS / 'results.md') as draft:
        draft.write_text(as_markdown(document, rows))
    print(f'{len(rows)} figures in {path} and {DOCS / "results.md"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
