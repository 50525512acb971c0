"""Small films for the tests, and what is in a film."""

from fractions import Fraction

import av
import numpy as np

TIMES = [0, 40, 80, 130, 150, 260, 300, 340, 380, 420, 460, 500, 540, 700, 720, 760, 800, 840]  # ms


def moving(number, height=48, width=64, scene=0):
    """(height, width) uint8: a textured ground that moves by a pixel a frame; scene 1 is darker."""
    rng = np.random.default_rng(scene)
    ground = rng.integers(30, 220, (height // 8 + 12, width // 8 + 12)).astype(np.uint8)
    large = np.kron(ground, np.ones((8, 8), np.uint8))
    large = (large.astype(np.uint16) + np.roll(large, 4, 0) + np.roll(large, 4, 1)) // (
        3 + 2 * scene
    )
    return large[number : number + height, number : number + width].astype(np.uint8)


def two_scenes(number=18, height=48, width=64):
    """Frames of two scenes, half of them each."""
    return [moving(i, height, width, scene=2 * i // number) for i in range(number)]


def make_film(
    path,
    frames,
    times=TIMES,
    time_base=Fraction(1, 1000),
    codec='libx264',
    pixels='yuv420p',
    audio='aac',
    subtitles=None,
    rotation=None,
    container_format=None,
    **tags,
):
    """Writes a film of (H, W) gray frames at `times`, in units of the time base."""
    with av.open(str(path), 'w', format=container_format) as container:
        options = {'qp': '4'} if codec == 'libx264' else {}
        video = container.add_stream(codec, rate=25, time_base=time_base, options=options)
        height, width = frames[0].shape[:2]
        video.width, video.height, video.pix_fmt = width, height, pixels
        for name, value in tags.items():
            setattr(video.codec_context, name, value)
        if rotation:
            video.set_display_rotation(rotation)
        video.metadata['language'] = 'deu'
        container.metadata['title'] = 'A test'
        if audio:
            sound = container.add_stream(audio, rate=44100)
            sound.layout = 'mono'
            sound.metadata['language'] = 'fra'
        if subtitles:
            text = container.add_mux_stream(subtitles, time_base=Fraction(1, 1000))
            text.metadata['language'] = 'spa'
        for frame, time in zip(frames, times, strict=True):
            full = tags.get('color_range') == 2
            gray = av.VideoFrame.from_ndarray(frame, 'gray')
            one = gray.reformat(format=pixels, src_color_range=2, dst_color_range=2 if full else 1)
            one.pts, one.time_base = time, time_base
            container.mux(video.encode(one))
        container.mux(video.encode(None))
        if audio:
            number = int(float(times[-1] * time_base) * 44100) // 1024
            for index in range(number):
                wave = np.sin(np.arange(1024) * (0.05 + 0.001 * index))[None].astype(np.float32)
                block = av.AudioFrame.from_ndarray(wave, 'fltp', 'mono')
                block.sample_rate, block.pts = 44100, index * 1024
                container.mux(sound.encode(block))
            container.mux(sound.encode(None))
        if subtitles:
            for start, words in ((100, b'One'), (500, b'Two')):
                content = (
                    len(words).to_bytes(2, 'big') + words if subtitles == 'mov_text' else words
                )
                packet = av.Packet(content)
                packet.stream, packet.time_base = text, Fraction(1, 1000)
                packet.pts = packet.dts = start
                packet.duration = 200
                container.mux(packet)
    return path


def streams(path):
    """For each kind of stream: codec, language, and of each packet time, duration and content."""
    found = {}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size:
                stream = packet.stream
                found.setdefault(
                    stream.type, (stream.codec_context.name, stream.metadata.get('language'), [])
                )[2].append(
                    (
                        packet.pts * packet.time_base,
                        (packet.duration or 0) * packet.time_base,
                        bytes(packet),
                    )
                )
    return found


def times_of(path):
    """When each frame of the video is shown and for how long, s."""
    return sorted(packet[:2] for packet in streams(path)['video'][2])


def decoded(path, layout='rgb24'):
    """The frames of the video as arrays."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=layout) for frame in container.decode(video=0)]
