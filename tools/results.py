"""Runs the experiments behind docs/results.md and docs/finetuning.md; makes both, results.csv and curves from the logs.

    python tools/results.py run voc-ours bccd  # these; what has been run already is skipped
    python tools/results.py table              # from the logs of all that have been run here

Figures whose logs are not here stay as they are in docs/results.csv.
"""

import argparse
import csv
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from string import Template
from typing import Any

from mmengine.fileio import load
from plot_curves import compare_curves

from mnv2_backbone.errors import UserError, command, whole_file

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
RUNS = ROOT / 'work_dirs/results'
#: The files of experiments, and the pages that are made from them.
PAGES = {'experiments.yml': 'results.md', 'finetuning.yml': 'finetuning.md'}
#: The columns of docs/results.csv, the first four of which identify a figure.
COLUMNS = ('experiment', 'model', 'data', 'metric', 'mean', 'std', 'runs', 'seconds', 'machine')
ROWS = 'results.csv'
Row = dict[str, str]


def machine() -> str:
    """The processor of this machine."""
    cpuinfo = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.+)', cpuinfo.read_text()) if cpuinfo.is_file() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    name = found[1] if found else platform.processor() or platform.machine()
    return f'{cores} core{"s" if cores != 1 else ""} of {name}'


def run(experiment: Mapping[str, Any]) -> None:
    """Runs the commands of an experiment, one after the other; those that ended well are not run again.

    The seconds of a command are those of all its starts: one that was cut may have been made to go on.
    """
    folder = RUNS / experiment['name']
    folder.mkdir(parents=True, exist_ok=True)
    for number, (line, done) in enumerate(zip(experiment['commands'], marks(experiment))):
        if done.is_file():
            continue
        line = Template(line).safe_substitute({'options': '', **experiment})
        print(f'{experiment["name"]}: {line}', flush=True)
        words = [str(folder) if word == 'OUT' else word for word in shlex.split(line.replace('OUT/', f'{folder}/'))]
        words = [sys.executable, *words[1:]] if words[0] == 'python' else words
        spent = folder / f'spent_{number}.txt'
        began = time.monotonic() - (float(spent.read_text()) if spent.is_file() else 0)
        log = folder / f'log_{number}.txt'
        with log.open('a') as file, subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file) as process:
            while process.poll() is None:
                with whole_file(spent) as draft:
                    draft.write_text(str(time.monotonic() - began))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
        if process.returncode:
            raise UserError(f'{experiment["name"]}: exit status {process.returncode}, see {log}')
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


def marks(experiment: Mapping[str, Any]) -> list[Path]:
    """The files that its commands leave when they end well."""
    return [RUNS / experiment['name'] / f'done_{number}.json' for number in range(len(experiment['commands']))]


def figures(experiment: Mapping[str, Any]) -> list[Row]:
    """The figures of an experiment, from its logs; none if it has not been run to its end here."""
    folder = RUNS / experiment['name']
    if not all(mark.is_file() for mark in marks(experiment)):
        return []
    facts = [json.loads(mark.read_text()) for mark in marks(experiment)]
    rows = []
    for figure in experiment['figures']:
        files = sorted(folder.glob(figure['scores']))
        found = [scores(path) for path in files]
        # A training that was killed and resumed leaves a log without an evaluation, beside the one with it.
        keys = figure['key'] if isinstance(figure['key'], list) else [figure['key']]  # of several the mean
        values = [figure.get('scale', 1) * mean(one[key] for key in keys) for one in found if one.keys() >= set(keys)]
        if not values:
            raise UserError(f'{experiment["name"]}: no {", ".join(keys)} in {figure["scores"]} in {folder}')
        std = round(stdev(values), 4) if len(values) > 1 else ''
        cells = (round(mean(values), 4), std, len(values), sum(fact['seconds'] for fact in facts), facts[-1]['machine'])
        rows.append(dict(zip(COLUMNS, (*identity(experiment, figure), *map(str, cells)))))
    return rows


def identity(experiment: Mapping[str, Any], figure: Mapping[str, Any]) -> tuple[str, ...]:
    """What identifies a figure: its values of the first four columns."""
    both = {**experiment, **figure}
    return both['name'], both['model'], both['data'], both['metric']


def collect(experiments: list[dict[str, Any]], known: list[Row]) -> list[Row]:
    """All figures, in the order of the experiments: from logs if there are some, else as they are known."""
    before = {tuple(row[name] for name in COLUMNS[:4]): row for row in known}
    rows = []
    for experiment in experiments:
        names = [identity(experiment, figure) for figure in experiment['figures']]
        rows += figures(experiment) or [before[name] for name in names if name in before]
    return rows


def as_text(row: Row) -> str:
    """A figure with its spread."""
    return f'{float(row["mean"]):.4g}' + (f' ± {float(row["std"]):.2g}' if row['std'] else '')


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [names, ['---'] * len(names), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def as_markdown(document: Mapping[str, Any], rows: list[Row]) -> str:
    """A page: the summary, then for each task its text, its figures and what others publish."""
    found = {tuple(row[name] for name in COLUMNS[:4]): row for row in rows}
    tasks = {experiment['name']: experiment['task'] for experiment in document['experiments']}
    parts = [f'# {document.get("title", "Results")}']
    summary = []
    for line in document.get('summary', ()):
        values = [as_text(found[tuple(key)]) for key in line['figures']]
        summary.append((line['what'], line['result'].format(*values), line['beside'].format(*values)))
    if summary:
        parts.append(table(('what', 'result', 'compared with'), summary))
    parts.append(document['about'].strip())
    for task in document['tasks']:
        own = [row for row in rows if tasks.get(row['experiment']) == task['name']]
        if not own:
            continue
        parts += [f'## {task["name"]}', *([task['before'].strip()] if 'before' in task else [])]
        metrics = list(dict.fromkeys(row['metric'] for row in own))
        cells: dict[tuple[str, ...], dict[str, Row]] = {}
        for row in own:
            cells.setdefault((row['model'], row['data'], row['experiment']), {})[row['metric']] = row
        lines = []
        for (model, data, name), by in cells.items():
            values = [as_text(by[metric]) if metric in by else '' for metric in metrics]
            lines.append((model, data, *values, next(iter(by.values()))['runs'], name))
        for other in task.get('published', ()):
            values = [f'*{other["value"]}*' if other['metric'] == metric else '' for metric in metrics]
            lines.append((f'*{other["model"]}*', f'*{other["data"]}*', *values, '', f'*published: {other["source"]}*'))
        parts.append(table(('model', 'data', *metrics, 'runs', 'experiment'), lines))
        image = task.get('curves', {}).get('image')
        if image and (DOCS / image).is_file():
            parts.append(f'![Training loss and {task["curves"]["score"]} of every run]({image})')
        times: dict[str, dict[str, str]] = {}
        for row in own:
            times.setdefault(row['machine'], {})[row['experiment']] = f'{float(row["seconds"]) / 60:.0f} min'
        for name, taken in times.items():
            parts.append(f'Time on {name}: ' + ', '.join(f'`{one}` {time}' for one, time in taken.items()) + '.')
        parts += [task['after'].strip()] if 'after' in task else []
    parts.append(document.get('checks', '').strip())
    return '\n\n'.join(filter(None, parts)) + '\n'


def draw(task: Mapping[str, Any], experiments: list[dict[str, Any]]) -> None:
    """Draws the curves of a task, if the logs of all its runs are here."""
    curves = task['curves']
    sources = {folders.partition('/')[0] for folders in curves['runs'].values()}
    if all(mark.is_file() for one in experiments if one['name'] in sources for mark in marks(one)):
        runs = {name: sorted(RUNS.glob(folders)) for name, folders in curves['runs'].items()}
        compare_curves(runs, curves['score'], DOCS / curves['image'])


@command
def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('action', choices=('run', 'table'))
    parser.add_argument('names', nargs='*', help='experiments to run (default: all)')
    args = parser.parse_args()
    documents = {page: load(DOCS / source) for source, page in PAGES.items()}
    experiments = [one for document in documents.values() for one in document['experiments']]
    known = [experiment['name'] for experiment in experiments]
    for name in args.names:
        if name not in known:
            raise UserError(f'{name}: no such experiment; allowed are {", ".join(known)}')
    if args.action == 'run':
        for experiment in experiments:
            if not args.names or experiment['name'] in args.names:
                run(experiment)
        return 0
    rows = collect(experiments, read_rows(DOCS / ROWS))
    for task in (task for document in documents.values() for task in document['tasks']):
        if 'curves' in task:
            draw(task, experiments)
    with whole_file(DOCS / ROWS) as draft, draft.open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    for page, document in documents.items():
        with whole_file(DOCS / page) as draft:
            draft.write_text(as_markdown(document, rows))
    print(f'{len(rows)} figures in {DOCS / ROWS}, {" and ".join(PAGES.values())}')
    return 0


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file; none if it does not exist."""
    if not path.is_file():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


if __name__ == '__main__':
    sys.exit(main())
