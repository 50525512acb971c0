"""What results keep of their photographs, as Pillow reads it and as it was stored."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from chromagan_jax.config.postprocess import OFF
from chromagan_jax.data import decode
from chromagan_jax.inference import batch, encode, exif, metadata
from chromagan_jax.inference.encode import Encoding
from chromagan_jax.inference.files import MARK
from chromagan_jax.inference.outcomes import Job

NAME = 'Käthe Müller'.encode()
IPTC = b'\x1c\x02\x78\x00\x05hello'
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6">'
    b'<xmp:Thumbnails>secret</xmp:Thumbnails>words</rdf:Description></rdf:RDF></x:xmpmeta>'
)
KINDS = ('jpg', 'png', 'webp', 'tif')


def stored(order='<'):
    """A JPEG on its side with all kinds of metadata, a thumbnail among them."""
    tags = exif.Exif(order)
    main = {
        exif.ORIENTATION: tags.tag(exif.SHORT, 6),
        0x010F: exif.Tag(exif.ASCII, len(NAME) + 1, NAME + b'\0'),
        exif.SOFTWARE: exif.Tag(exif.ASCII, 7, b'Camera\0'),
    }
    details = {
        0x9003: exif.Tag(exif.ASCII, 20, b'2001:02:03 04:05:06\0'),
        0x927C: exif.Tag(exif.UNDEFINED, 5, b'\0\1\2\3\4'),  # a maker's note
        exif.WIDTH: tags.tag(exif.SHORT, 40),
    }
    gps = {2: tags.tag(exif.RATIONAL, 10, 1, 20, 1, 30, 1)}
    block = exif.to_bytes(tags._replace(main=main, exif=details, gps=gps))
    file = io.BytesIO()
    pixels = Image.fromarray(np.zeros((30, 40), np.uint8))
    pixels.save(file, 'JPEG', exif=b'Exif\0\0' + block, xmp=XMP, dpi=(300, 200))
    return encode._with_iptc(file.getvalue(), IPTC)


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('suffix', KINDS)
def test_each_kind_keeps_exif_gps_iptc_xmp_and_dpi_of_the_upright_image(suffix, order, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    path = tmp_path / f'a.{suffix}'
    kept = metadata.read(stored(order))
    path.write_bytes(encode.encode(pixels, path, Path('old photo.jpg'), kept))
    # An independent reader.
    image = Image.open(path)
    tags = image.getexif()
    assert tags[0x010F].encode('latin-1').startswith(NAME)
    assert tags.get_ifd(exif.EXIF)[0x9003] == '2001:02:03 04:05:06'
    assert tags.get_ifd(exif.EXIF)[exif.WIDTH] == 30
    assert tags.get_ifd(exif.GPS)[2] == (10, 20, 30)
    assert tags[exif.ORIENTATION] == 1
    assert tags[exif.SOFTWARE].startswith(f'Camera; {MARK}')
    assert 'machine-made' in tags[exif.SOFTWARE]
    assert 'icc_profile' in image.info or image.info['srgb'] == 0
    # Again by our own.
    again = metadata.read(path.read_bytes())
    assert again.exif.exif[0x927C].data == b'\0\1\2\3\4'
    assert np.allclose(again.dpi, (200, 300), atol=0.01)
    assert again.iptc == (b'' if suffix == 'webp' else IPTC)
    for text in (b'words', b'tiff:Orientation="1"', b'compositeWithTrainedAlgorithmicMedia'):
        assert text in again.xmp
    assert b'secret' not in again.xmp
    assert metadata.source_of(path) == 'old photo.jpg'
    assert metadata.losses(kept, encode.kind(path)) == (
        ['WebP has no place for IPTC: it is not kept'] if suffix == 'webp' else []
    )


@pytest.mark.parametrize('suffix', KINDS)
def test_without_metadata_only_the_note_is_there_and_bytes_do_not_depend_on_the_time(suffix):
    pixels = np.zeros((8, 8, 3), np.uint8)
    content = encode.encode(pixels, Path(f'a.{suffix}'), Path('b.jpg'))
    found = metadata.read(content)
    assert set(found.exif.main) <= {exif.SOFTWARE}
    assert (found.exif.exif, found.exif.gps, found.iptc, found.dpi) == ({}, {}, b'', None)
    assert content == encode.encode(pixels, Path(f'a.{suffix}'), Path('b.jpg'))
    assert encode.srgb_profile()[24:36] == bytes([7, 208, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0])


def test_a_result_of_a_result_has_one_note():
    pixels = np.zeros((8, 8, 3), np.uint8)
    kept = metadata.NONE
    for name in ('a', 'b', 'c'):
        kept = metadata.read(encode.encode(pixels, Path('x.png'), Path(name), kept))
    software = kept.exif.main[exif.SOFTWARE].data
    assert software.count(MARK.encode()) == 1
    assert software.endswith(b'from c\0')
    assert kept.xmp.count(b'DigitalSourceType') == 1


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('channels', [3, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_pixels_of_lossless_kinds_are_exact_in_8_and_16_bits(suffix, channels, dtype):
    full = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(1, full, (70, 30, channels)).astype(dtype)
    content = encode.encode(pixels, Path(f'a.{suffix}'), Path('b.jpg'))
    np.testing.assert_array_equal(decode.read(content, deep=True).pixels, pixels)


def test_quality_is_that_of_the_encoding():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    for suffix in ('jpg', 'webp'):
        sizes = [
            len(encode.encode(pixels, Path(f'a.{suffix}'), Path('b'), encoding=Encoding(quality)))
            for quality in (20, 95)
        ]
        assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize('length', [0, 7, 9, 40])
def test_damaged_exif_is_left_out_with_a_note(length):
    file = io.BytesIO()
    block = b'Exif\0\0MM\0*\0\0\0\x08\xff\xff' + bytes(range(length))
    Image.new('L', (8, 8)).save(file, 'JPEG', exif=block)
    found = metadata.read(file.getvalue())
    assert found.notes == ('its EXIF is damaged and is not kept',)


def test_a_profile_and_texts_of_megabytes_do_not_hide_metadata_of_a_png():
    pixels = np.zeros((8, 8, 3), np.uint8)
    content = encode.encode(pixels, Path('a.png'), Path('b'), metadata.read(stored()))
    long = encode._chunk(b'tEXt', b'Comment\0' + b'x' * 2_000_000)
    found = metadata.read(content[:33] + long + content[33:])
    assert found.iptc == IPTC
    assert found.exif.gps


def test_blocks_that_are_too_large_for_jpeg_are_left_out_with_a_note():
    kept = metadata.Metadata(xmp=b'x' * 70_000)
    assert metadata.losses(kept, 'JPEG') == ['its XMP is larger than JPEG allows and is not kept']
    encode.encode(np.zeros((8, 8, 3), np.uint8), Path('a.jpg'), Path('b'), kept)
    assert metadata.losses(kept, 'PNG') == []


def test_exif_of_a_kind_with_a_decoder_in_another_process_is_read():
    file = io.BytesIO()
    tags = Image.Exif()
    tags[0x010F] = 'Maker'
    Image.new('RGB', (16, 16)).save(file, 'AVIF', exif=tags)
    assert metadata.read(file.getvalue()).exif.main[0x010F].data == b'Maker\0'


def two_pages(path, **layout):
    """Front at 300 dpi, and Back on its side at 600 x 400 dpi with a date."""
    with tifffile.TiffWriter(path, **layout) as writer:
        page = {'metadata': None, 'resolutionunit': 'INCH'}
        front, back = np.zeros((8, 9), np.uint8), np.full((8, 9), 255, np.uint8)
        writer.write(front, description='Front', resolution=(300, 300), **page)
        tags = [(exif.ORIENTATION, 'H', 1, 6, True)]
        page |= {'datetime': '2001:02:03 04:05:06', 'extratags': tags}
        writer.write(back, description='Back', resolution=(600, 400), **page)
    return path


@pytest.mark.parametrize('layout', [{}, {'byteorder': '>'}, {'bigtiff': True}])
def test_each_page_of_a_tiff_has_its_own_metadata(tmp_path, layout):
    path = two_pages(tmp_path / 'a.tif', **layout)
    for source in (path, path.read_bytes()):
        front, back = metadata.read(source), metadata.read(source, 1)
        assert [found.exif.main[0x010E].data for found in (front, back)] == [b'Front\0', b'Back\0']
        assert (front.dpi, back.dpi) == ((300, 300), (400, 600))  # of the upright image
        assert (0x0132 in front.exif.main, 0x0132 in back.exif.main) == (False, True)
        assert front.notes == back.notes == ()


def test_the_results_of_pages_have_the_metadata_of_their_pages(tmp_path):
    path = two_pages(tmp_path / 'a.tif')
    for page, words, dpi in ((None, 'Front', (300, 300)), (0, 'Front', (300, 300)),
                             (1, 'Back', (400, 600))):  # fmt: skip
        job = Job(path, tmp_path / f'{page}.png', page=page)
        photograph = batch._read(job, 32, 10**6, OFF, encode.DEFAULT, 0)
        assert photograph.kept.exif.main[0x010E].data.decode().strip('\0') == words
        assert photograph.kept.dpi == dpi


@pytest.mark.parametrize('below', [False, True])
def test_a_single_image_behind_a_thumbnail_has_the_metadata_of_both(tmp_path, below):
    path = tmp_path / 'a.tif'
    with tifffile.TiffWriter(path) as writer:
        page = {'metadata': None, 'resolutionunit': 'INCH'}
        thumbnail = {'subfiletype': 1, 'subifds': int(below), 'description': 'Thumbnail'}
        tags = [(exif.ORIENTATION, 'H', 1, 6, True), (0x010F, 's', 0, 'Maker', True)]
        small, large = np.zeros((4, 5), np.uint8), np.zeros((8, 9), np.uint8)
        writer.write(small, **thumbnail, resolution=(72, 72), extratags=tags, **page)
        writer.write(large, description='Whole', resolution=(600, 400), **page)
    found = metadata.read(path)
    assert found.exif.main[0x010E].data == b'Whole\0'
    assert found.exif.main[0x010F].data == b'Maker\0'
    assert found.dpi == (600, 400)  # the thumbnail is on its side, the image is not


@pytest.mark.parametrize(
    'head',
    [
        b'FUJIFILMCCD-RAW 0201',
        b'FOVb\0\0\2\0',
        b'\0MRM\0\0\1\0',
        b'\0\0\0\x18ftypcrx \0\0\0\1crx isom',
        b'II\x1a\0\0\0HEAPCCDR',
    ],
)
def test_metadata_of_camera_raw_that_is_no_tiff_are_not_called_damaged(head):
    found = metadata.read(head + bytes(200))
    assert found.notes == ('metadata of this kind of camera raw are not read',)


def test_damaged_metadata_of_a_tiff_are_left_out_with_a_note():
    file = io.BytesIO()
    tags = [(exif.PHOTOSHOP, 'B', 7, b'8BIM\4\4\0', True)]
    tifffile.imwrite(file, np.zeros((8, 9), np.uint8), extratags=tags)
    found = metadata.read(file.getvalue())
    assert found.notes == ('its metadata are damaged and are not kept',)


def test_metadata_of_a_large_tiff_are_read_without_its_pixels(tmp_path):
    path = tmp_path / 'a.tif'
    with tifffile.TiffWriter(path) as writer:
        for page in range(20):
            pixels = np.zeros((1000, 1000), np.uint8)
            writer.write(pixels, description=f'Page {page}', metadata=None)
    tracemalloc.start()
    found = metadata.read(path, 7)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.exif.main[0x010E].data == b'Page 7\0'
    assert peak < 2 * 10**6
