"""Which files are films, by their names. It does not need the extra."""

from pathlib import Path

# Of the containers and raw streams that FFmpeg reads.
SUFFIXES = frozenset(
    {
        *('.mp4', '.m4v', '.mov', '.qt', '.3gp', '.3g2', '.f4v', '.mkv', '.mk3d', '.webm', '.ivf'),
        *('.avi', '.divx', '.dv', '.dif', '.wmv', '.asf', '.wtv', '.flv', '.swf', '.ogv', '.ogm'),
        *('.mpg', '.mpeg', '.mpe', '.m1v', '.m2v', '.mpv', '.vob', '.dat', '.evo', '.mod', '.tod'),
        *('.ts', '.m2t', '.mts', '.m2ts', '.trp', '.tp', '.mxf', '.gxf', '.lxf', '.nut', '.nsv'),
        *('.rm', '.rmvb', '.rv', '.amv', '.bik', '.smk', '.roq', '.fli', '.flc', '.y4m', '.mjpg'),
        *('.mjpeg', '.mjp', '.h261', '.h263', '.h264', '.264', '.avc', '.h265', '.265', '.hevc'),
        *('.vc1', '.obu', '.av1', '.m4p', '.ogx', '.thp', '.vid', '.yuv4mpeg'),
    }
)


def is_film(path: Path) -> bool:
    """Whether a file is named like a film."""
    return path.suffix.lower() in SUFFIXES
