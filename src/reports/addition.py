"""Finished runs become published ones: in .results/<setup>/, without what no table or figure of them needs."""

import json
import os

from core import results
from core.errors import UserError
from core.files import ROOT, write
from core.shapes import AMOUNT, IDENTITY, check
from reports import setups
from reports.records import closed

DROPPED = 'folder', 'inputs'  # entries of a record that .results/ does not keep
TIMES = {'times?': {'total': AMOUNT, 'epochs': [[AMOUNT]], 'testing': [AMOUNT]}}  # of a record
LOGS = 'epochs', 'monitor'  # that it keeps of compression experiments only


def add(folder, setup, commit):
    """Copy the finished runs of a folder to .results, without DROPPED. Raises UserError."""
    target = setups.FOLDER / setup
    if not (target / 'about.json').exists():
        raise UserError(f'--setup: {os.path.relpath(target, ROOT)}/about.json is missing; write it first, with '
                        f'{", ".join(setups.ABOUT)}')  # fmt: skip
    experiment, finished = results.load_record(target / 'about.json').get('experiment'), []
    for path in sorted(path for path in folder.glob('*.json') if '.old-' not in path.name):
        try:
            check(record := results.load_record(path), IDENTITY, path)
            check(record, TIMES, path)
            if not {'arguments', 'accuracy', 'times'} <= record.keys():
                continue
            if record['arguments'].get('experiment') != experiment:
                raise UserError(f'{path}: not a run of {experiment}')
            if not path.with_suffix('.txt').exists():
                raise UserError(f'{path}: its accuracy matrix, {path.stem}.txt, is missing')
            finished.append((path, record))
        except UserError as error:
            print(f'left out: {error}')
    if not finished:
        raise UserError(f'--add: no finished run of {experiment} in {folder}')
    for path, record in finished:
        dropped = DROPPED + (LOGS if len(record['accuracy']) > 1 else ())
        short = {key: value for key, value in record.items() if key not in dropped} | {'commit': commit}
        short |= {'closed': layers} if any(layers := closed(record)) else {}
        short['times'] = record['times'] | {
            'epochs': [[round(second, 2) for second in log] for log in record['times']['epochs']],
            'testing': [round(second, 2) for second in record['times']['testing']],
        }
        write_record(target / path.name, short)
        write(target / f'{path.stem}.txt', path.with_suffix('.txt').read_bytes())
        for report in results.pruned_folder(path).glob('*.json'):
            copy = results.pruned_folder(target / path.name) / report.name
            results.make_folder(copy.parent)
            write_record(copy, results.load_record(report))


def write_record(path, record):
    write(path, json.dumps(record) + '\n')
