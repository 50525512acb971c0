"""What became slower between two results, and what is noise."""

import json

import pytest

from benchmarks import compare

STEP = {'name': 'train_step', 'size': 128, 'images_per_second': 20.0, 'seconds': 0.4}


@pytest.fixture
def run(tmp_path, capsys):
    def run(before, after, *flags):
        for name, lines in (('before', before), ('after', after)):
            (tmp_path / name).write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
        code = compare.main([str(tmp_path / 'before'), str(tmp_path / 'after'), *flags])
        return code, capsys.readouterr()

    return run


def test_what_became_slower_is_named_and_the_exit_code_is_1(run):
    code, said = run([STEP], [STEP | {'images_per_second': 18.0}])
    assert code == 1
    assert said.out == 'train_step: images_per_second 20 -> 18, 0.90 x, worse\n'


def test_what_became_faster_is_named_and_the_exit_code_is_0(run):
    code, said = run([STEP], [STEP | {'seconds': 0.2}])
    assert code == 0
    assert said.out == 'train_step: seconds 0.4 -> 0.2, 0.50 x, better\n'


@pytest.mark.parametrize('flags', [['--noise=0.2'], []])
def test_changes_within_the_noise_do_not_count(run, flags):
    spread = {} if flags else {'seconds_spread': 0.1}
    code, said = run([STEP | spread], [STEP | {'images_per_second': 17.0} | spread], *flags)
    assert code == 0
    assert said.out == 'no change beyond the noise\n'


def test_medians_of_several_runs_are_compared_and_their_range_is_noise(run):
    def runs(*rates):
        return [STEP | {'images_per_second': rate} for rate in rates]

    code, said = run(runs(20.0, 20.2, 26.0), runs(18.0, 18.1, 18.2), '--noise=0')
    assert (code, said.out) == (0, 'no change beyond the noise\n')
    code, said = run(runs(20.0, 20.2, 20.4), runs(10.0, 18.0, 18.0), '--noise=0.5')
    assert (code, said.out) == (0, 'no change beyond the noise\n')
    code, said = run(runs(20.0, 20.2, 20.4), runs(18.0, 18.1, 18.2), '--noise=0')
    assert code == 1
    assert said.out == 'train_step: images_per_second 20.2 -> 18.1, 0.90 x, worse\n'


def test_only_equal_settings_are_compared(run):
    code, said = run([STEP], [STEP | {'size': 256}])
    assert code == 1
    assert 'have no measurement in common' in said.err


def test_pipelines_with_other_workers_are_compared_apart(run):
    def lines(*rates):
        settings = ({'workers': 0, 'threads': 2}, {'workers': 0, 'threads': 1}, {'workers': 2})
        pairs = zip(settings, rates, strict=True)
        return [{'name': 'pipeline', 'images_per_second': rate, **each} for each, rate in pairs]

    code, said = run(lines(1130, 670, 980), lines(900, 530, 780))
    assert (code, said.out.count('worse')) == (1, 3)


def test_another_machine_is_named(run):
    _, said = run([STEP | {'machine': 'A'}], [STEP | {'machine': 'B'}])
    assert said.err == "the machine differs: 'A' and 'B'\n"


def test_a_file_without_measurements_ends_in_a_sentence(run):
    code, said = run([], [STEP])
    assert code == 1
    assert 'holds no measurement' in said.err


def test_a_measurement_that_is_gone_is_named_and_the_exit_code_is_1(run):
    gone = {'name': 'pipeline', 'workers': 2, 'images_per_second': 5.0}
    code, said = run([STEP, gone], [STEP])
    assert code == 1
    assert said.out.startswith('pipeline (workers 2): only in ')
    assert said.out.count('\n') == 1
    assert run([STEP], [STEP, gone])[0] == 0


@pytest.mark.parametrize('name', ['width', 'discriminator_width', 'source'])
def test_other_networks_and_photographs_are_not_compared(run, name):
    code, said = run([STEP | {name: 32}], [STEP | {name: 64}])
    assert code == 1
    assert 'have no measurement in common' in said.err


@pytest.mark.parametrize('other', [7, 0, [], 'name', None])
def test_a_line_that_is_no_object_is_one_sentence(run, other):
    code, said = run([STEP, other], [STEP])
    assert (code, said.err.count('\n')) == (1, 1)
    assert 'is no object' in said.err


def test_a_setting_may_be_a_list_and_a_figure_null(run):
    line = STEP | {'size': [128, 96], 'peak_bytes': None}
    assert run([line], [line])[0] == 0
