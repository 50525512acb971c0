"""Which files the arguments of colorize name, and what is told about the others."""

import os

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from chromagan_jax.data.decode import formats
from chromagan_jax.errors import UserError
from chromagan_jax.inference import files

GRAY = Image.fromarray(np.full((8, 8), 90, np.uint8))


def save(path, kind='PNG', **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    GRAY.save(path, kind, **options)
    return path


def places(found):
    return [str(listed.place) for listed in found.photographs]


def test_a_folder_is_mirrored_and_other_kinds_are_counted_by_suffix(tmp_path):
    folder = tmp_path / 'in'
    save(folder / 'b/c.jpe', 'JPEG')
    save(folder / 'a.PNG')
    for name in ('x.txt', 'y.txt', 'README', 'z.pdf'):
        (folder / name).write_bytes(b'text')
    found = files.find([str(folder)], tmp_path / 'out')
    assert places(found) == ['a.PNG', 'b/c.jpe']
    assert found.failures == []
    (note,) = found.notes
    assert note == (
        f'{folder}: 4 files are of kinds that are not read (.txt 2, without a suffix 1, .pdf 1)'
    )


def test_paths_that_are_no_files_fail_before_the_network_is_loaded(tmp_path):
    photo = save(tmp_path / 'a.png')
    wrong = [str(tmp_path / 'b.png'), str(photo / 'c.png'), str(tmp_path / ('d' * 300))]
    found = files.find([*wrong, str(photo)], tmp_path / 'out')
    assert places(found) == ['a.png']
    missing = 'failed: there is no such file: correct the path'
    assert found.failures == [
        *(f'{path} {missing}' for path in wrong[:2]),
        f'{wrong[2]} failed: File name too long',
    ]


def test_a_pipe_is_named_instead_of_waited_for(tmp_path):
    pipe = tmp_path / 'pipe.png'
    os.mkfifo(pipe)
    found = files.find([str(pipe), '/dev/null'], tmp_path / 'out')
    reason = 'it is a pipe or device, and a file is needed: save what it gives to a file'
    assert found.photographs == []
    assert found.failures == [f'{pipe} failed: {reason}', f'/dev/null failed: {reason}']
    for special in (pipe, tmp_path):
        with pytest.raises(OSError, match='it is no file'):
            files.ends(special)


def test_a_note_far_from_the_ends_is_found(tmp_path):
    path = tmp_path / 'a.webp'
    mark = files.MARK.encode()
    for before in (0, 10**5, files._PART - 5):
        path.write_bytes(bytes(before) + mark + bytes(2 * 10**6))
        assert files.is_marked(path)
    path.write_bytes(mark[:-1] + bytes(3 * 10**6))
    assert not files.is_marked(path)


def test_a_kind_whose_package_is_missing_is_counted_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, 'is_available', lambda kind: not kind.module)
    for name in ('a.heic', 'b.JXL', 'c.dng'):
        save(tmp_path / 'in' / name)
    (note,) = files.find([str(tmp_path / 'in')], tmp_path / 'out').notes
    assert '3 files are of kinds that are not read' in note
    for suffix, extra in (('.heic', 'heif'), ('.jxl', 'jxl'), ('.dng', 'raw')):
        assert f"{suffix} 1: pip install 'chromagan_jax[{extra}]'" in note


def test_a_file_without_a_suffix_is_chosen_by_its_content(tmp_path):
    save(tmp_path / 'in/scan0001', 'JPEG')
    save(tmp_path / 'in/scan.002', 'TIFF')
    (tmp_path / 'in/notes').write_bytes(b'text')
    found = files.find([str(tmp_path / 'in')], tmp_path / 'out')
    assert places(found) == ['scan.002', 'scan0001']
    assert 'without a suffix 1' in found.notes[0]


def test_hidden_files_and_folders_of_systems_are_left_out_silently(tmp_path):
    names = ('@eaDir/a.jpg/T.png', '__MACOSX/a.png', '#recycle/a.png', '.thumbs/a.png', '._a.png')
    for name in ('a.png', *names):
        save(tmp_path / 'in' / name)
    (tmp_path / 'in/Thumbs.db').write_bytes(b'x')
    found = files.find([str(tmp_path / 'in')], tmp_path / 'out')
    assert places(found) == ['a.png']
    assert found.notes == found.failures == []


def test_results_of_earlier_runs_are_not_read_again_unless_they_are_named(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text('Software', files.MARK)
    result = save(tmp_path / 'in/colour/a.png', pnginfo=text)
    save(tmp_path / 'in/a.png')
    save(tmp_path / 'in/out/b.png')
    found = files.find([str(tmp_path / 'in')], tmp_path / 'in/out')
    assert places(found) == ['a.png']
    assert found.notes == [f'{tmp_path}/in: 1 result is not read again (of an earlier run)']
    assert places(files.find([str(result)], tmp_path / 'out')) == ['a.png']


def test_an_output_that_holds_a_folder_of_photographs_is_refused(tmp_path):
    save(tmp_path / 'album/a.png')
    for output in (tmp_path / 'album', tmp_path):
        with pytest.raises(UserError, match='is the same folder or holds it: choose another'):
            files.find([str(tmp_path / 'album')], output)


def test_only_tiffs_are_read_to_count_their_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'count_pages', lambda data: pytest.fail('the file was read'))
    film = tmp_path / 'film.mkv'
    film.write_bytes(b'\x1aE\xdf\xa3' + bytes(100))
    paths = [str(film), str(save(tmp_path / 'a.png'))]
    assert places(files.find(paths, tmp_path / 'out', all_pages=True)) == ['film.mkv', 'a.png']


def test_a_folder_without_photographs_is_named_and_the_rest_goes_on(tmp_path):
    (tmp_path / 'void').mkdir()
    found = files.find([str(tmp_path / 'void'), str(save(tmp_path / 'a.png'))], tmp_path / 'out')
    assert places(found) == ['a.png']
    assert found.failures == [f'{tmp_path}/void failed: it holds no photographs']


def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    save(tmp_path / 'in/closed/a.png')
    save(tmp_path / 'in/open/b.png')
    scan = os.scandir

    def scandir(folder):
        if str(folder).endswith('closed'):
            raise PermissionError(13, 'Permission denied')
        return scan(folder)

    monkeypatch.setattr(os, 'scandir', scandir)
    found = files.find([str(tmp_path / 'in')], tmp_path / 'out')
    assert places(found) == ['open/b.png']
    assert found.failures == [f'{tmp_path}/in/closed failed: Permission denied']


@pytest.mark.parametrize('links', [{'x/link': '../y', 'y/link': '../x'}, {'x/link': '.'}])
def test_links_that_lead_back_end(tmp_path, links):
    save(tmp_path / 'in/x/a.png')
    save(tmp_path / 'in/y/b.png')
    for name, target in links.items():
        (tmp_path / 'in' / name).symlink_to(target)
    found = files.find([str(tmp_path / 'in')], tmp_path / 'out')
    assert 2 <= len(found.photographs) <= 4


def test_each_page_of_a_tiff_is_a_photograph_if_asked_for(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (1, 2, 3)]
    path = tmp_path / 'scan.tif'
    pages[0].save(path, save_all=True, append_images=pages[1:])
    (first,) = files.find([str(path)], tmp_path / 'out').photographs
    assert (first.place.name, first.page) == ('scan.tif', None)
    found = files.find([str(path), str(save(tmp_path / 'a.png'))], tmp_path / 'out', all_pages=True)
    assert [(listed.place.name, listed.page) for listed in found.photographs] == [
        ('scan.page1.tif', 0),
        ('scan.page2.tif', 1),
        ('scan.page3.tif', 2),
        ('a.png', None),
    ]
