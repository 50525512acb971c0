"""The flags of the colorize command and their help."""

import os
from typing import Any, NamedTuple

from absl import flags

from chromagan_jax.config.fields import flatten
from chromagan_jax.config.postprocess import OFF
from chromagan_jax.data.decode import MAX_PIXELS
from chromagan_jax.errors import UserError
from chromagan_jax.utils import cli


class Flag(NamedTuple):
    """A flag; a tuple of values makes it a choice."""

    default: Any
    help: str
    kind: type | tuple[str, ...] = str
    least: int = 1
    most: int | None = None


_GROUPS: dict[str, dict[str, Flag]] = {
    'Photographs': {
        'output': Flag(None, 'Folder of the results.'),
        'list': Flag(None, 'File with one path a line; -: standard input.'),
        'pages': Flag('first', 'Pages of a TIFF: first or all.', ('first', 'all')),
        'skip_color': Flag(False, 'Leave out photographs that are in colour already.', bool),
        'overwrite': Flag(False, 'Replace results that exist; otherwise they are skipped.', bool),
        'samples': Flag(
            0,
            'Different results of each photograph, if the network has noise; 0: one result.',
            int,
            0,
        ),
    },
    'Results': {
        'format': Flag(
            'png',
            'png, jpg, webp, tif, or same (that of the photograph).',
            ('png', 'jpg', 'webp', 'tif', 'same'),
        ),
        'quality': Flag(95, 'Quality of JPEG and WebP, 1 to 100.', int, 1, 100),
        'depth': Flag(
            '8', 'Bits, 8 or 16; 16 is used for PNG and TIFF if the photograph has 16.', ('8', '16')
        ),
        'metadata': Flag(True, 'Keep EXIF, IPTC, XMP and resolution.', bool),
        'keep_date': Flag(False, 'Give results the file date of their photographs.', bool),
        'report': Flag(None, 'HTML page to write, with each photograph before and after.'),
        'crf': Flag(
            17,
            "Films: x264's constant rate factor, 0 to 51; larger values make smaller files.",
            int,
            0,
            51,
        ),
        'json': Flag(False, 'Print one line of JSON for each result on standard output.', bool),
    },
    'Network': {
        'workdir': Flag(None, 'Run whose network colorizes. Default: the released weights.'),
        'checkpoint': Flag('newest', 'Checkpoint of --workdir: newest, best, or a step.'),
        'size': Flag(
            None,
            'px, side of the square that the network sees; 192,256 averages both. Default: '
            'the size of its evaluation.',
        ),
        'hints': Flag(None, 'JSON file of known colours, for a network that takes hints.'),
        'batch_size': Flag(
            1, 'Squares that the network colorizes at once; 8 for films unless set.', int
        ),
    },
    'Resources': {
        'threads': Flag(min(8, os.cpu_count() or 1), 'Threads that read and write.', int),
        'max_megapixels': Flag(
            MAX_PIXELS // 10**6,
            'Limit of a photograph, and of all photographs in memory together; they take 20 bytes '
            'a pixel (28 with --depth=16).',
            int,
        ),
    },
    'Processing (default: that of the run, or none)': {
        'sample_noise': Flag(
            None, 'Keep the noise of the network: the result is one of many.', bool
        ),
        'saturation': Flag(None, 'Factor of the chroma; 1: unchanged.', float),
        'white_balance': Flag(None, 'Removal of a tint: none, gray_world or percentile.'),
        'white_balance_strength': Flag(None, 'Strength of the white balance, 0 to 1.', float),
        'contrast': Flag(
            None, 'Strength of the local contrast enhancement (CLAHE), 0 to 1.', float
        ),
        'clahe_clip': Flag(None, 'Clip limit of CLAHE.', float),
        'clahe_tiles': Flag(None, 'Tiles of CLAHE along each side.', int),
        'denoise_before': Flag(
            None, 'Noise reduction of the photograph, in 8-bit steps; 0: none.', float
        ),
        'denoise_after': Flag(
            None, 'Noise reduction of the colours, in units of a* and b*; 0: none.', float
        ),
        'denoise_method': Flag(None, 'Method for the colours: nlm or bilateral.'),
    },
}


_DEFINE: dict[Any, Any] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
}


def make_flags() -> flags.FlagValues:
    """The flags of the command, apart from absl's global ones."""
    values = flags.FlagValues()
    processing = flatten(OFF)
    for group in _GROUPS.values():
        for name, flag in group.items():
            options: dict[str, Any] = {'flag_values': values}
            define: Any = _DEFINE.get(flag.kind, flags.DEFINE_string)
            if isinstance(flag.kind, tuple):
                options['enum_values'], define = flag.kind, flags.DEFINE_enum
            elif flag.kind is int and name not in processing:
                options |= {'lower_bound': flag.least, 'upper_bound': flag.most}
            define(name, flag.default, help=flag.help, **options)
    return values


def help_text() -> str:
    """The flags by group."""
    parts = []
    for title, group in _GROUPS.items():
        described = []
        for name, flag in group.items():
            default = f' ({flag.default})' if flag.default not in (None, False) else ''
            shown = f'[no]{name}' if flag.kind is bool else name
            described.append((shown, f'{flag.help}{default}'))
        parts.append(f'{title}:\n{cli.flag_lines(described)}')
    return '\n\n'.join(parts)


def check_places(values: flags.FlagValues) -> None:
    """Raises UserError for an --output or --report in a bucket, and a --report that is no page."""
    for name in ('output', 'report'):
        if '://' in (place := values[name].value or ''):
            raise UserError(
                f'--{name}={place} is not a local folder: mount the bucket, or write to a local '
                'folder and copy the results.'
            )
    if not (report := values.report):
        return
    if os.path.isdir(report):
        raise UserError(f'--report={report} is a folder: name a file in it.')
    if os.path.splitext(report)[1].lower() not in ('.html', '.htm'):  # `--report a.jpg b.jpg`
        raise UserError(
            f'--report={report} is not the name of an HTML page: write --report=report.html.'
        )


def check_network(values: flags.FlagValues) -> None:
    """Raises UserError for an empty --workdir, or a --checkpoint without one."""
    if values.workdir == '':  # such as a variable that a script did not set
        raise UserError('--workdir is empty: name a run, or leave it out for the released weights.')
    if values.workdir is None and values['checkpoint'].present:
        raise UserError(
            '--checkpoint chooses among those of a run: add --workdir=runs/base, or leave it out '
            'for the released weights.'
        )
