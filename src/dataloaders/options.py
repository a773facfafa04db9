"""Options of run.py that belong to some experiments only: the others neither take nor record them."""

from core.arguments import side
from core.errors import UserError
from dataloaders import EXPERIMENTS


def add(parser):
    own = parser.add_argument_group('your own pictures (--experiment folder)')
    own.add_argument('--size', type=side, metavar='N', help='pictures become N x N (default: the most common longer '
                     'side, from 32 to 64)')  # fmt: skip
    own.add_argument('--skip-bad', action='store_const', const=True, help='leave out damaged pictures (default: stop)')


def is_own(experiment):
    """Are its tasks those of a folder of your own?"""
    return hasattr(EXPERIMENTS[experiment], 'use')


def apply(args):
    """Tell the experiment where its data are, and its options; remove those of others from args."""
    module = EXPERIMENTS[args.experiment]
    own = getattr(module, 'OPTIONS', ())
    for name in {name for each in EXPERIMENTS.values() for name in getattr(each, 'OPTIONS', ())} - set(own):
        if vars(args).pop(name, None) is not None:
            raise UserError(f'--{name.replace("_", "-")}: --experiment {args.experiment} does not take it')
    if own:
        module.use(args.data, **{name: getattr(args, name, None) for name in own})
