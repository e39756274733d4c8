"""Generate the embedded data set: ``python -m mmtrtvit.datasets OUT_DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmtrtvit.datasets.writer import DatasetError, Parameters, generate


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    default = Parameters()
    parser = argparse.ArgumentParser(prog='python -m mmtrtvit.datasets', description=__doc__)
    parser.add_argument('out_dir', type=Path, help='folder to make; it appears when it is complete')
    parser.add_argument('--seed', type=int, default=default.seed, help='another seed, other images (%(default)s)')
    parser.add_argument('--train', type=int, default=default.train, help='training images (%(default)s)')
    parser.add_argument('--val', type=int, default=default.val, help='validation images (%(default)s)')
    parser.add_argument('--size', type=int, default=default.size, help='longer image side in pixels (%(default)s)')
    parser.add_argument('--workers', type=int, default=None, help='threads (one a core); the result is the same')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a generated set that is damaged or has other parameters'
    )
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        parser.error(f'argument --workers: {args.workers} is less than 1')
    try:
        args.parameters = Parameters(args.seed, args.train, args.val, args.size)
    except DatasetError as error:
        parser.error(f'argument --{error}')
    return args


def main(argv: list[str] | None = None) -> int:
    """Generate the data set; return the exit status."""
    args = parse_args(argv)
    try:
        new = generate(
            args.out_dir,
            args.parameters,
            overwrite=args.overwrite,
            workers=args.workers,
            progress=sys.stderr.isatty(),
        )
    except (DatasetError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'interrupted: nothing was written to {args.out_dir}', file=sys.stderr)
        return 130
    wanted = args.parameters
    what = f'{wanted.train} + {wanted.val} images of {wanted.size} pixels, seed {wanted.seed}'
    print(f'{args.out_dir}: {what}, {"made" if new else "already there, whole"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
