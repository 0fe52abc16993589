"""The tables of results: experiments are run once, figures come from their logs, and the documents agree."""

from __future__ import annotations

import csv
import json
import shlex
import sys

import cv2
import pytest
import yaml
from conftest import ROOT

# Each writes a score that depends on its argument.
WRITE = 'import json, sys; open(sys.argv[1] + "/score.json", "w").write(json.dumps({"a": {"b": float(sys.argv[2])}}))'
DOCUMENT = dict(
    about='About.',
    tasks=[
        dict(name='Counting', published=[dict(model='theirs', data='others', metric='x', value='9', source='a paper')])
    ],
    experiments=[
        dict(
            name='count',
            task='Counting',
            data='two',
            commands=[f"python -c '{WRITE}' OUT 0.5", "python -c 'print(1)'"],
            figures=[dict(model='ours', metric='x', scores='score.json', key='a/b', scale=100)],
        ),
        dict(
            name='seeds',
            task='Counting',
            data='three',
            commands=["python -c 'import sys; sys.exit(3)'"],
            figures=[dict(model='other', metric='x', scores='*.json', key='a')],
        ),
    ],
)

# Experiments that differ in one option.
SWITCHES = dict(
    title='Switches',
    about='More.',
    tasks=[dict(name='Switching')],
    experiments=[
        dict(
            name=name,
            model=name,
            task='Switching',
            data='four',
            commands=[f"python -c '{WRITE}' OUT $options"],
            options=options,
            figures=[dict(metric='x', scores='score.json', key='a/b')],
        )
        for name, options in (('on', '0.25'), ('off', '0.75'))
    ],
)


def rows(folder):
    with (folder / 'results.csv').open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """``tools/results.py`` in a folder of its own, called with its arguments."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import results

    monkeypatch.setattr(results, 'DOCS', tmp_path)
    monkeypatch.setattr(results, 'RUNS', tmp_path / 'runs')
    (tmp_path / 'experiments.yml').write_text(yaml.safe_dump(DOCUMENT))
    (tmp_path / 'finetuning.yml').write_text(yaml.safe_dump(SWITCHES))

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['results.py', *arguments])
        return results.main()

    return call


def test_what_ended_well_is_run_once_and_tabled(tool, tmp_path, capsys):
    assert tool('run', 'count') == 0 and capsys.readouterr().out.count('count: python') == 2
    assert tool('run', 'count') == 0 and capsys.readouterr().out == ''
    assert tool('run', 'nothing') == 2 and 'allowed are count, seeds, on, off' in capsys.readouterr().err
    assert tool('run') == 2 and 'seeds: exit status 3, see' in capsys.readouterr().err
    assert tool('table') == 0
    (row,) = rows(tmp_path)
    assert (row['model'], float(row['mean']), row['std'], row['runs']) == ('ours', 50, '', '1')
    text = (tmp_path / 'results.md').read_text()
    assert (
        '| ours | two | 50 | 1 | count |' in text
        and '*published: a paper*' in text
        and 'other' not in text.split('*')[0]
    )


def test_the_time_of_a_command_that_was_cut_counts(tool, tmp_path):
    assert tool('run', 'on') == 0
    folder = tmp_path / 'runs/on'
    (folder / 'done_0.json').unlink()
    (folder / 'spent_0.txt').write_text('1000')
    assert tool('run', 'on') == 0
    assert 1000 <= json.loads((folder / 'done_0.json').read_text())['seconds'] < 1060


def test_one_option_makes_the_rows_of_another_page(tool, tmp_path):
    assert tool('run', 'on', 'off') == 0 and tool('table') == 0
    text = (tmp_path / 'finetuning.md').read_text()
    assert text.startswith('# Switches') and '| on | four | 0.25 | 1 | on |' in text and '| off | four | 0.75 |' in text
    assert 'four' not in (tmp_path / 'results.md').read_text() and len(rows(tmp_path)) == 2


def test_runs_are_averaged_and_figures_without_logs_stay(tool, tmp_path):
    runs = tmp_path / 'runs/seeds'
    runs.mkdir(parents=True)
    for seed, value in enumerate((1.0, 2.0, 6.0)):
        (runs / f'{seed}.json').write_text(json.dumps(dict(a=value - 1, b=value + 1)))
    known = dict(experiment='count', model='ours', data='two', metric='x', mean='7', std='1', runs='3', seconds='60')
    known['machine'] = 'm, two cores'
    with (tmp_path / 'results.csv').open('w') as file:
        writer = csv.DictWriter(file, known)
        writer.writeheader()
        writer.writerow(known)
    assert tool('table') == 0
    assert rows(tmp_path) == [known]  # the other one has not ended well
    for path in runs.glob('*.json'):
        path.rename(path.with_name(f'run{path.name}'))
    (runs / 'done_0.json').write_text(json.dumps(dict(seconds=5, machine='m')))
    document = json.loads(json.dumps(DOCUMENT))
    document['experiments'][1]['figures'][0].update(scores='run*.json', key=['a', 'b'])  # their mean
    (tmp_path / 'experiments.yml').write_text(yaml.safe_dump(document))
    assert tool('table') == 0
    first, second = rows(tmp_path)
    assert first == known
    assert (float(second['mean']), round(float(second['std']), 3), second['runs']) == (3, 2.646, '3')
    assert '| other | three | 3 ± 2.6 | 3 | seeds |' in (tmp_path / 'results.md').read_text()


def test_logs_of_trainings_give_figures_and_curves(tool, tmp_path):
    for seed, end in enumerate((40.0, 50.0)):
        log = tmp_path / f'runs/seeds/ours_seed{seed}/now/vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        logged = [dict(loss=9.0, iter=10, step=10), dict(mIoU=20.0, step=1), dict(loss=5.0, iter=20, step=20)]
        log.write_text('\n'.join(map(json.dumps, [*logged, dict(mIoU=end, step=2)])) + '\n')
    document = json.loads(json.dumps(DOCUMENT))
    document['tasks'][0]['curves'] = dict(image='c.png', score='mIoU', runs={'ours': 'seeds/ours_seed*'})
    killed = tmp_path / 'runs/seeds/ours_seed0/before/vis_data/scalars.json'  # and resumed
    killed.parent.mkdir(parents=True)
    killed.write_text(json.dumps(dict(loss=1.0, step=10)) + '\n')
    document['experiments'][1]['figures'][0].update(scores='ours_seed*/*/vis_data/scalars.json', key='mIoU')
    (tmp_path / 'experiments.yml').write_text(yaml.safe_dump(document))
    assert tool('table') == 0 and not (tmp_path / 'c.png').exists()  # it has not come to its end
    (tmp_path / 'runs/seeds/done_0.json').write_text(json.dumps(dict(seconds=5, machine='m')))
    assert tool('table') == 0
    (row,) = rows(tmp_path)
    assert (float(row['mean']), row['runs']) == (45, '2')
    assert cv2.imread(str(tmp_path / 'c.png')).std() > 5
    assert '(c.png)' in (tmp_path / 'results.md').read_text()


def test_the_published_tables_are_made_from_the_published_figures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import results

    found = results.read_rows(ROOT / 'docs/results.csv')
    for source, page in results.PAGES.items():
        document = yaml.safe_load((ROOT / 'docs' / source).read_text())
        assert results.as_markdown(document, found) == (ROOT / 'docs' / page).read_text()
        experiments = document['experiments']
        assert {experiment['task'] for experiment in experiments} <= {task['name'] for task in document['tasks']}
        for experiment in experiments:
            for command in experiment['commands']:
                files = [word for word in shlex.split(command) if word.startswith(('tools/', 'configs/'))]
                assert files and all((ROOT / file).is_file() for file in files), command
