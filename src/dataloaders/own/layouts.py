"""The tasks in a folder of your own, and the pictures of each. Only names are read here.

DIR/<task>.npz                              four arrays
DIR/<task>/{train,test}/<class>/<picture>   or DIR/<task>/<class>/<picture>
DIR/<task>.csv                              columns path, label and, if you like, split: a row for each picture

Hidden files and files of other kinds are ignored. What comes out does not depend on the order of a folder.
"""

import csv
import os

from core.errors import UserError, one_line

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
SPLITS = 'train', 'test'
IGNORED = '__MACOSX', '@eaDir'  # what archives made on macOS, and network drives, leave behind


def find(folder):
    """name -> path of each task, in alphabetical order. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f'--data: {folder} is not a folder')
    paths = [folder / name for name in visible(folder) if name not in IGNORED]
    tables = [path for path in paths if path.suffix == '.csv' and os.path.isfile(path)]
    # Folders of the pictures in tables
    used = {place(table, path).split(os.sep)[0] for table in tables for path, _, _ in rows(table)}
    tasks = {}
    for path in paths:
        if os.path.isdir(path):
            name = None if path.name in used else path.name
        else:
            name = path.stem if path.suffix in ('.npz', '.csv') else None
            if name and not os.path.isfile(path):
                raise UserError(f'{path}: neither a file nor a folder')
        if name in tasks:
            raise UserError(f'{path}: {tasks[name].name} is the same task; rename one')
        if name:
            tasks[utf8(name, path)] = path
    if set(SPLITS) <= set(tasks):
        raise UserError(f'--data: {folder} is a task itself, with train and test; give the folder that it is in')
    if not tasks:
        raise UserError(f'--data: {folder} has no tasks, neither <task>.npz nor <task>.csv nor <task>/<class>/pictures')
    return tasks


def pictures(task):
    """split -> [(path, label)] of a folder or a csv. Without 'test' there is no test set. Raises UserError."""
    splits = in_table(task) if task.suffix == '.csv' and not os.path.isdir(task) else in_folder(task)
    if 'train' not in splits:
        raise UserError(f'{task}: no pictures for training')
    return splits


def in_folder(task):
    names = subfolders(task)
    if not set(SPLITS) <= set(names):
        return {'train': in_classes(task / 'train' if names == ['train'] else task)}
    if others := sorted(set(names) - set(SPLITS)):
        raise UserError(f'{task / others[0]}: stands beside train and test; move it away, or its pictures into these')
    return {split: in_classes(task / split) for split in SPLITS}


def in_classes(folder):
    found = []
    for label in subfolders(folder):
        files = [name for name in visible(folder / label) if name.lower().endswith(SUFFIXES)]
        if within := buried(folder / label):
            raise UserError(f'{within}: pictures in a folder within a class; move them into the class, or remove it')
        if not files:
            raise UserError(f'{folder / label}: a class without pictures ({" ".join(SUFFIXES)}); remove it or fill it')
        found += [(os.path.join(folder, label, name), utf8(label, folder / label)) for name in files]
    if not found:
        raise UserError(f'{folder}: no classes; the pictures of each go into a folder of its name')
    return found


def buried(label):
    """A folder with pictures somewhere within that of a class, or None."""
    for folder, inner, files in os.walk(label):
        inner[:] = sorted(name for name in inner if not name.startswith('.') and name not in IGNORED)
        shown = (name for name in files if not name.startswith('.'))
        if folder != str(label) and any(name.lower().endswith(SUFFIXES) for name in shown):
            return folder


def in_table(table):
    splits = {}
    for picture, label, split in rows(table):
        splits.setdefault(split, []).append((os.path.join(table.parent, picture), label))
    return splits


def rows(table):
    """(path, label, split) of each row of a csv file. Raises UserError."""
    taken = {}
    try:
        with open(table, encoding='utf-8-sig', newline='') as file:
            reader = csv.DictReader(file, strict=True)
            if missing := {'path', 'label'} - set(reader.fieldnames or ()):
                raise UserError(
                    f'{table}: no column {sorted(missing)[-1]}; the first line has to be path,label,split, with commas'
                )
            misspelt = [name for name in reader.fieldnames if name.strip().lower() == 'split']
            if misspelt and 'split' not in misspelt:
                raise UserError(f'{table}: column {misspelt[0]!r}: write split, in small letters and without spaces')
            for row in reader:
                if any(row.get(None, ())):
                    raise UserError(
                        f'{table}, line {reader.line_num}: more cells than columns; quote a label with a comma'
                    )
                path, label, split = (row.get(name, 'train') for name in ('path', 'label', 'split'))
                if not (path and label and split in SPLITS):
                    found = ','.join(map(str, (path, label, split)))
                    raise UserError(
                        f'{table}, line {reader.line_num}: a path, a label and train or test are needed, not {found!r}'
                    )
                if label != label.strip():
                    raise UserError(f'{table}, line {reader.line_num}: spaces around the label {label!r}; remove them')
                if '\0' in path:
                    raise ValueError('a path with a null byte')
                if (where := place(table, path)) in taken:
                    raise UserError(f'{table}, line {reader.line_num}: {path} stands there twice')
                taken[where] = path, label, split
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f'{table}: cannot be read as a table: {one_line(getattr(error, "strerror", 0) or error)}'
        ) from error
    if not taken:
        raise UserError(f'{table}: no rows; each names a picture')
    return list(taken.values())


def place(table, path):
    """One text for a path in a table however it is written: from the folder of the table, if it is in there. A picture
    that is a link is not followed: several may lead to one file of a store."""
    folder = os.path.abspath(table.parent)
    path = os.path.normpath(os.path.join(folder, path))
    if path.startswith(folder + os.sep):
        return path.removeprefix(folder + os.sep)
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return real.removeprefix(os.path.realpath(folder) + os.sep)


def visible(folder):
    """Names of the files and folders in a folder. Raises UserError."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith('.'))
    except OSError as error:
        raise UserError(f'{folder}: cannot be read: {error.strerror}') from error


def subfolders(folder):
    """Names of the folders of splits or classes in a folder. Raises UserError, also for pictures beside them."""
    names = visible(folder)
    folders = [name for name in names if os.path.isdir(folder / name)]
    if folders and (loose := sorted(name for name in set(names) - set(folders) if name.lower().endswith(SUFFIXES))):
        raise UserError(f'{folder / loose[0]}: a picture beside folders; move it into the class that it is of, or away')
    return folders


def utf8(name, path):
    """A name for results and screens. Raises UserError."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f'{path}: the name of a task or class has to be UTF-8; rename it') from error
    return name
