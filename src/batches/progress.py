"""What a batch prints while it runs, and its summary."""

import time

from tqdm import tqdm

from core.errors import escape

MAX_LINE = 10_000  # bytes at the end of a log in which its last line is looked for
EMPTY = 'no message: is the disk full?'  # of a failed run that could not write to its log


class ProgressDisplay:
    """On a terminal, a bar for the batch and the last log line of each running run; otherwise a line for each run."""

    def __init__(self, n_runs, n_finished):
        self.n_runs, self.n_finished, self.failed = n_runs, n_finished, []
        self.bar = tqdm(total=n_runs, initial=n_finished, unit='run', disable=None, dynamic_ncols=True)
        self.started, self.lines = {}, {}  # by name of a running run: time; its line on the terminal and the run
        if n_finished:
            self.log(f'{n_finished} of {n_runs} runs already finished')

    def start(self, r):
        self.started[r.name] = time.monotonic()
        position = min(set(range(1, len(self.lines) + 2)) - {-line.pos for line, _ in self.lines.values()})
        line = tqdm(bar_format='  {desc}', position=position, leave=False, disable=None, dynamic_ncols=True)
        self.lines[r.name] = line, r

    def remove(self, r):
        """It no longer runs. Returns when it was started, or None."""
        if r.name in self.lines:
            self.lines.pop(r.name)[0].close()
        return self.started.pop(r.name, None)

    def finish(self, r, code):
        """code: its exit code; a run that was not started here was finished by another batch."""
        started = self.remove(r)
        state = 'finished by another batch' if started is None else 'FAILED' if code else 'finished'
        seconds = '' if started is None else f', {time.monotonic() - started:.1f} s'
        if code:
            self.failed.append(f'{r.name}: exit code {code}: {last_line(r.log) or EMPTY} (see {escape(str(r.log))})')
        else:
            self.n_finished += 1
        self.bar.update()
        self.log(f'{self.n_finished + len(self.failed)}/{self.n_runs} {r.name} {state}{seconds}')

    def refresh(self):
        for name, (line, r) in self.lines.items():
            text = f'{name}  {last_line(r.log)}'
            if not line.disable and text != line.desc:
                line.set_description_str(text)

    def close(self):
        for _, r in list(self.lines.values()):
            self.remove(r)
        self.bar.close()
        print(f'{self.n_runs} runs: {self.n_finished} finished, {len(self.failed)} failed')
        for text in self.failed:
            print(f'  {text}')

    def log(self, text):
        if self.bar.disable:
            print(text, flush=True)


def last_line(path):
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, path.stat().st_size - MAX_LINE))
            lines = file.read().decode(errors='replace').split('\n')
    except OSError:
        return ''
    return next((line for line in reversed(lines) if line.strip()), '')
