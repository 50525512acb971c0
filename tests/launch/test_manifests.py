"""The manifests are valid, fit together, and suit the JAX and the command that they start."""

import configparser
import copy
import importlib.util
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from types import SimpleNamespace as Namespace
from typing import Any

import kubernetes_validate
import pytest
import yaml
from absl import flags
from jax._src import clusters

import chromagan_jax
from chromagan_jax import main
from chromagan_jax.config import Config, command_line
from chromagan_jax.errors import DivergedError, PreemptedError, UserError
from chromagan_jax.utils import cli

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'launch' / 'kubernetes'
OLDEST = '1.31'  # of Kubernetes, as gpu.yaml says
Manifest = dict[str, Any]


def read(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FOLDER / f'{name}.yaml').read_text()))


def only(kind: str, name: str) -> Manifest:
    """The one object of this kind in a file."""
    [found] = [manifest for manifest in read(name) if manifest['kind'] == kind]
    return found


def pod(name: str) -> Manifest:
    return only('Job', name)['spec']['template']['spec']


def arguments(name: str) -> list[str]:
    """Those of chromagan_jax.main, whose name comes before them."""
    module, *given = pod(name)['containers'][0]['args']
    assert module == main.__name__
    return given


def parse(args: list[str]) -> tuple[Config, dict[str, Any]]:
    """The config, and the other flags, as `chromagan_jax.main` understands these arguments."""
    line = command_line.split(args)
    values = flags.FlagValues()
    for flag in flags.FLAGS.get_flags_for_module(main.__name__):
        values[flag.name] = copy.deepcopy(flag)  # parsing changes a flag
    assert not cli.parse(values, ['main', *line.rest])
    set_here = {
        name: value for name, value in values.flag_values_dict().items() if values[name].present
    }
    return command_line.make_config(line), set_here


@pytest.fixture(autouse=True)
def _in_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # as in /app, where configs/ are


# Schemas


@pytest.mark.parametrize('version', [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize('name', ['setup', 'gpu', 'tpu', 'eval'])
def test_manifests_are_valid(name: str, version: str) -> None:
    for manifest in read(name):
        used = kubernetes_validate.validate(manifest, version, strict=True)
        assert used.split('.') == version.split('.')[:2]


def test_the_validation_refuses_a_misspelt_field() -> None:
    job = only('Job', 'gpu')
    job['spec']['backofflimit'] = job['spec'].pop('backoffLimit')
    with pytest.raises(kubernetes_validate.ValidationError, match='backofflimit'):
        kubernetes_validate.validate(job, OLDEST, strict=True)


def test_every_manifest_is_tested() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {'setup', 'gpu', 'tpu', 'eval'}


# A cluster as far as JAX sees it


class Cluster:
    """Kubernetes' answers to a pod of gpu.yaml: its API under setup.yaml's Role, and its DNS."""

    def __init__(self) -> None:
        self.service, self.job = only('Service', 'gpu'), only('Job', 'gpu')
        template = self.job['spec']['template']
        name = self.job['metadata']['name']
        # What the Job controller adds.
        self.labels = template['metadata']['labels'] | {'job-name': name}
        self.subdomain = template['spec'].get('subdomain')
        self.hosts = [f'{name}-{index}' for index in range(self.job['spec']['completions'])]
        binding, role = only('RoleBinding', 'setup'), only('Role', 'setup')
        subject = {'kind': 'ServiceAccount', 'name': template['spec']['serviceAccountName']}
        assert subject in binding['subjects']
        assert only('ServiceAccount', 'setup')['metadata']['name'] == subject['name']
        assert binding['roleRef']['name'] == role['metadata']['name']
        self.rules = role['rules']

    def address(self, host: str) -> str:
        """Its own name each pod has in /etc/hosts; others through the headless Service."""
        name, _, subdomain = host.partition('.')
        selector = self.service['spec']['selector'].items()
        selected = all(self.labels.get(label) == value for label, value in selector)
        headless = self.service['spec']['clusterIP'] == 'None' and selected
        named = headless and subdomain == self.subdomain == self.service['metadata']['name']
        if name in self.hosts and (named or not subdomain):
            return f'10.0.0.{self.hosts.index(name)}'
        raise socket.gaierror(f'{host} is not known')

    def check(self, group: str, resource: str, verb: str) -> None:
        if not any(
            group in rule['apiGroups'] and resource in rule['resources'] and verb in rule['verbs']
            for rule in self.rules
        ):
            raise ApiError(403, f'may not {verb} {resource}')

    def list_namespaced_pod(self, namespace: str, field_selector: str) -> Any:
        self.check('', 'pods', 'list')
        assert field_selector == f'status.podIP={self.address(self.hosts[1])}'
        owners = [Namespace(controller=True, kind='Job')]
        metadata = Namespace(name=self.hosts[1], labels=self.labels, owner_references=owners)
        return Namespace(
            items=[Namespace(metadata=metadata, spec=Namespace(subdomain=self.subdomain))]
        )

    def read_namespaced_job(self, name: str, namespace: str) -> Any:
        self.check('batch', 'jobs', 'get')
        assert name == self.job['metadata']['name']
        metadata = Namespace(name=name, labels=self.job['metadata'].get('labels'))
        return Namespace(
            metadata=metadata, spec=Namespace(parallelism=self.job['spec']['parallelism'])
        )

    def list_namespaced_service(self, namespace: str) -> Any:
        self.check('', 'services', 'list')
        return Namespace(items=[])


class ApiError(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def test_jax_finds_the_other_pods_with_the_rights_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster = Cluster()
    client = Namespace(
        CoreV1Api=lambda: cluster,
        BatchV1Api=lambda: cluster,
        exceptions=Namespace(ApiException=ApiError),
    )
    package: Any = ModuleType('kubernetes')
    package.client = client
    package.config = Namespace(load_incluster_config=lambda: None)
    monkeypatch.setitem(sys.modules, 'kubernetes', package)
    monkeypatch.setenv('KUBERNETES_SERVICE_HOST', '10.0.0.254')
    monkeypatch.setenv('HOSTNAME', cluster.hosts[1])
    monkeypatch.setenv('JOB_COMPLETION_INDEX', '1')
    monkeypatch.setattr(socket, 'gethostbyname', cluster.address)
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)  # between its tries
    # JAX's detection, loaded anew for its caches, and the only one that is asked.
    monkeypatch.setattr(clusters.ClusterEnv, '_cluster_types', [])
    spec = importlib.util.find_spec('jax._src.clusters.k8s_cluster')
    assert spec is not None
    assert spec.loader is not None
    detection = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(detection)
    (tmp_path / 'namespace').write_text('default')
    detection.open = lambda path: (tmp_path / Path(path).name).open()  # type: ignore[attr-defined]

    coordinator, processes, process, _ = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, 300
    )
    assert coordinator is not None
    host = coordinator.partition(':')[0]
    assert cluster.address(host) == '10.0.0.0'
    assert f' {host};' in pod('gpu')['initContainers'][0]['command'][-1]
    assert (processes, process) == (cluster.job['spec']['completions'], 1)


# The Jobs


@pytest.mark.parametrize('name', ['gpu', 'tpu'])
def test_the_pods_of_a_run_start_together_and_have_names(name: str) -> None:
    service, job = only('Service', name), only('Job', name)['spec']
    assert job['completions'] == job['parallelism']
    assert job['completionMode'] == 'Indexed'
    assert service['spec']['clusterIP'] == 'None'
    assert service['spec']['publishNotReadyAddresses']
    assert service['spec']['selector'] == {'job-name': only('Job', name)['metadata']['name']}
    assert pod(name)['subdomain'] == service['metadata']['name']


def exit_code(monkeypatch: pytest.MonkeyPatch, error: Exception) -> object:
    """What `chromagan_jax.main` ends with after an exception."""

    def fail(argv: list[str]) -> None:
        raise error

    monkeypatch.setattr(main, '_run', fail)
    with pytest.raises(SystemExit) as ended:
        main.main(['main'])
    return ended.value.code


@pytest.mark.parametrize('name', ['gpu', 'tpu', 'eval'])
def test_a_mistake_and_divergence_fail_the_job_and_all_else_is_started_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code(monkeypatch, PreemptedError()) == 75
    hopeless = [exit_code(monkeypatch, error) for error in (UserError(), DivergedError())]
    job = only('Job', name)['spec']
    evicted, mistake = job['podFailurePolicy']['rules']
    assert evicted['action'] == 'Ignore'
    assert evicted['onPodConditions'] == [{'type': 'DisruptionTarget', 'status': 'True'}]
    assert mistake['action'] == 'FailJob'
    assert mistake['onExitCodes']['operator'] == 'In'
    assert mistake['onExitCodes']['values'] == hopeless
    assert mistake['onExitCodes']['containerName'] == pod(name)['containers'][0]['name']
    assert pod(name)['restartPolicy'] == 'Never'  # a podFailurePolicy works with no other
    assert job['backoffLimit'] >= 10 * job['completions']
    assert pod(name)['terminationGracePeriodSeconds'] >= 120


@pytest.mark.parametrize('name', ['gpu', 'tpu', 'eval'])
def test_the_command_line_is_one_that_main_takes(name: str) -> None:
    config, others = parse(arguments(name))
    assert (others.get('mode') == 'eval') == (name == 'eval') == config.eval.follow
    assert others.get('distributed', False) == (name != 'eval')
    assert config.eval.source


def test_the_check_of_the_command_line_refuses_what_main_refuses() -> None:
    for wrong in ('--config.eval.folow=true', '--distribute', '--mode=evaluate'):
        with pytest.raises(UserError):
            parse(['--config=configs/photos.py', wrong])


def test_evaluation_follows_the_training_of_either_kind() -> None:
    same = ('--config=', '--workdir=', '--config.eval.source=')
    common = [
        sorted(arg for arg in arguments(name) if arg.startswith(same))
        for name in ('gpu', 'tpu', 'eval')
    ]
    assert common[0] == common[1] == common[2]
    assert len(common[0]) == len(same)
    assert [f'--workdir={pod("eval")["initContainers"][0]["args"][0]}'] == common[2][2:]


@pytest.mark.parametrize(
    ('name', 'resource'), [('gpu', 'nvidia.com/gpu'), ('tpu', 'google.com/tpu')]
)
def test_a_batch_divides_over_the_devices(name: str, resource: str) -> None:
    devices = only('Job', name)['spec']['completions'] * limits(name)[resource]
    config, _ = parse(arguments(name))
    assert config.batch_size % devices == 0
    if name == 'tpu':
        topology = pod(name)['nodeSelector']['cloud.google.com/gke-tpu-topology']
        assert math.prod(map(int, topology.split('x'))) == devices


def limits(name: str) -> dict[str, Any]:
    return pod(name)['containers'][0]['resources']['limits']


@pytest.mark.parametrize('name', ['gpu', 'tpu', 'eval'])
def test_what_outlives_a_pod_is_on_the_shared_volume(name: str) -> None:
    claim = only('PersistentVolumeClaim', 'setup')
    assert claim['spec']['accessModes'] == ['ReadWriteMany']
    volumes = {volume['name']: volume for volume in pod(name)['volumes']}
    container = pod(name)['containers'][0]
    mounts = {mount['mountPath']: volumes[mount['name']] for mount in container['volumeMounts']}
    assert mounts['/dev/shm']['emptyDir']['medium'] == 'Memory'
    assert mounts['/volume']['persistentVolumeClaim']['claimName'] == claim['metadata']['name']
    config, others = parse(arguments(name))
    paths = [others['workdir'], others['compilation_cache'], config.eval.source]
    assert all(path.startswith('/volume/') for path in paths)


# The image


def instructions() -> list[str]:
    """Of the Dockerfile, one a line."""
    text = re.sub(r'^#.*\n', '', (ROOT / 'launch' / 'Dockerfile').read_text(), flags=re.M)
    return [line for line in text.replace('\\\n', ' ').splitlines() if line.strip()]


def steps() -> list[list[str]]:
    """The same as words."""
    return [shlex.split(line) for line in instructions()]


def test_what_the_image_copies_exists_and_is_sent_to_docker() -> None:
    copied = {path for step in steps() if step[0] == 'COPY' for path in step[1:-1]}
    assert {'chromagan_jax', 'configs', 'setup.cfg', 'pyproject.toml'} <= copied
    assert all((ROOT / path).exists() for path in copied)
    ignored = (ROOT / '.dockerignore').read_text().splitlines()
    assert '*' in ignored
    whole = {path for path in copied if not any(map(copied.__contains__, folders_of(path)))}
    assert {line.removeprefix('!') for line in ignored if line.startswith('!')} == whole


def folders_of(path: str) -> list[str]:
    return [str(folder) for folder in Path(path).parents]


def test_what_the_image_holds_at_its_installation_is_enough_to_install_the_package(
    tmp_path: Path,
) -> None:
    pytest.importorskip('setuptools')
    app, programs = tmp_path / 'app', tmp_path / 'programs'
    build = "from setuptools import build_meta as b; b.prepare_metadata_for_build_editable('.')"
    programs.mkdir()
    (programs / 'pip').write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{build}"\n')
    (programs / 'pip').chmod(0o755)
    for line in instructions():
        word, *words = shlex.split(line)
        if word == 'COPY':
            *files, folder = words
            (app / folder).mkdir(parents=True, exist_ok=True)
            for name in files:
                shutil.copy(ROOT / name, app / folder)
        elif word == 'RUN' and ' pip install ' in line:
            break
    variables = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    variables |= {'ACCELERATOR': 'cpu', 'PATH': f'{programs}:{os.environ["PATH"]}'}
    command = ['sh', '-c', line.removeprefix('RUN ')]
    done = subprocess.run(command, cwd=app, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [metadata] = app.glob('*.dist-info/METADATA')
    assert f'\nVersion: {chromagan_jax.__version__}\n' in metadata.read_text()


def test_the_extras_of_the_image_are_those_of_the_package() -> None:
    text = (ROOT / 'launch' / 'Dockerfile').read_text()
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    extras = setup['options.extras_require']
    accelerators = re.findall(r'^ +(\w+) \| (\w+)\) accelerator=', text, re.M)[0]
    [named] = re.findall(r'--editable "\.\[(.*)\$accelerator\]"', text)
    assert {*accelerators, *named.split(',')} <= set(extras)
    assert {'app', 'export', 'gcs', 's3', 'video'} <= set(named.split(','))
    assert extras['kubernetes'].strip().startswith('kubernetes')
    tags = {image.rpartition(':')[2] for name in ('gpu', 'tpu', 'eval') for image in images(name)}
    assert tags <= set(accelerators)


def images(name: str) -> list[str]:
    containers = pod(name).get('initContainers', []) + pod(name)['containers']
    return [container['image'] for container in containers]


def test_the_image_runs_modules_shows_the_page_by_default_and_is_no_superuser() -> None:
    words = dict((step[0], step[1:]) for step in steps())
    assert ''.join(words['ENTRYPOINT']) == '[tini,--,python,-m]'
    assert ''.join(words['CMD']) == '[chromagan_jax.app,--host=0.0.0.0]'
    assert 'ACCELERATOR=cpu' in [step[1] for step in steps() if step[0] == 'ARG']
    assert words['USER'] == [str(pod('gpu')['securityContext']['runAsUser'])]
    assert f'--uid {words["USER"][0]} ' in (ROOT / 'launch' / 'Dockerfile').read_text()
