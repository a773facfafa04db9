"""What a batch of runs shows while it goes on, and at its end."""

import time

from tqdm import tqdm

from core.errors import escape


class Board:
    """What a batch shows: one bar for all, and what each running one said last; lines where there is no terminal."""

    def __init__(self, n_runs, n_done):
        self.n_runs, self.n_done, self.failed = n_runs, n_done, []
        self.bar = tqdm(total=n_runs, initial=n_done, unit='run', disable=None, dynamic_ncols=True)
        self.began, self.states = {}, {}  # by run's name
        if n_done:
            self.say(f'{n_done} of {n_runs} runs are done before')

    def begin(self, r):
        self.began[r.name] = time.monotonic()
        position = min(set(range(1, len(self.states) + 2)) - {-line.pos for line, _ in self.states.values()})
        line = tqdm(bar_format='  {desc}', position=position, leave=False, disable=None, dynamic_ncols=True)
        self.states[r.name] = line, r

    def pause(self, r):
        """It is not running any more. Returns when it was begun, or None."""
        if r.name in self.states:
            self.states.pop(r.name)[0].close()
        return self.began.pop(r.name, None)

    def end(self, r, code):
        began = self.pause(r)
        how = 'done by another batch' if began is None else 'FAILED' if code else 'done'
        seconds = '' if began is None else f', {time.monotonic() - began:.1f} s'
        if code:
            self.failed.append(f'{r.name}: exit code {code}: {last_line(r.log)} (see {escape(str(r.log))})')
        else:
            self.n_done += 1
        self.bar.update()
        ended = self.n_done + len(self.failed)
        self.say(f'{ended}/{self.n_runs} {r.name} {how}{seconds}')

    def refresh(self):
        for name, (line, r) in self.states.items():
            text = f'{name}  {last_line(r.log)}'
            if not line.disable and text != line.desc:
                line.set_description_str(text)

    def close(self):
        for _, r in list(self.states.values()):
            self.pause(r)
        self.bar.close()
        print(f'{self.n_runs} runs: {self.n_done} done, {len(self.failed)} failed')
        for text in self.failed:
            print(f'  {text}')

    def say(self, text):
        if self.bar.disable:
            print(text, flush=True)


def last_line(path):
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, path.stat().st_size - 1000))
            lines = file.read().decode(errors='replace').split('\n')
    except OSError:
        return ''
    return next((line for line in reversed(lines) if line.strip()), '')
