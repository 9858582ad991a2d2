"""deploy/ as Ray, KubeRay, Kubernetes and Docker will read it: every YAML by the real schema, and what has to agree across files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy import check_config, environment
from deploy.check_config import ServeFile
from tests.unit.kube_schemas import schema_of

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.parent for path in DEPLOY.glob("kuberay/overlays/*/kustomization.yaml"))
SERVE_FILES = sorted([*DEPLOY.glob("config/*.yaml"), *DEPLOY.glob("kuberay/overlays/*/serve.yaml")])
POOLS = ("prefill", "decode")

Manifest = dict[str, Any]


def rendered(overlay: Path) -> list[Manifest]:
    """An overlay as `kubectl apply -k` would send it. Skips where neither kustomize nor kubectl, which has it built in, is installed."""
    if tool := shutil.which("kustomize"):
        command = [tool, "build"]
    elif tool := shutil.which("kubectl"):
        command = [tool, "kustomize"]
    else:
        pytest.skip("needs kubectl or kustomize")
    done = subprocess.run([*command, str(overlay)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module", params=OVERLAYS, ids=lambda overlay: overlay.name)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """Of one overlay after the other."""
    return rendered(request.param)


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {manifest["metadata"]["name"]: manifest["spec"] for manifest in manifests if manifest["kind"] == kind}


def service(manifests: list[Manifest]) -> Manifest:
    [found] = of_kind(manifests, "RayService").values()
    return found


def groups(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {group["groupName"]: group for group in service(manifests)["rayClusterConfig"]["workerGroupSpecs"]}


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The template of every pod that will be, by its group, with the labels that KubeRay adds."""
    head = service(manifests)["rayClusterConfig"]["headGroupSpec"]["template"]
    workers = {name: group["template"] for name, group in groups(manifests).items()}
    redis = {name: spec["template"] for name, spec in of_kind(manifests, "StatefulSet").items()}
    added = {"head": {"ray.io/node-type": "head"}} | {name: {"ray.io/node-type": "worker", "ray.io/group": name} for name in workers}
    return {
        name: {"spec": template["spec"], "labels": template["metadata"]["labels"] | added.get(name, {})}
        for name, template in {"head": head, **workers, **redis}.items()
    }


def container(pod: Manifest) -> Manifest:
    [found] = pod["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def served(manifests: list[Manifest]) -> ServeFile:
    return check_config.check(service(manifests)["serveConfigV2"], "serveConfigV2")


def selected(pods: dict[str, Manifest], selector: Manifest) -> set[str]:
    wanted = selector.get("matchLabels", {}).items()
    return {name for name, pod in pods.items() if wanted <= pod["labels"].items()}


def values(node: object, key: str) -> Iterator[Any]:
    """Every value of ``key``, however deep."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(node, list):
        for item in node:
            yield from values(item, key)


# ---------------------------------------------------------------- Serve and Ray


@pytest.mark.parametrize("path", SERVE_FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_serve_files_pass_the_check_of_baton_up(path: Path) -> None:
    """Every Serve config file that is shipped passes `baton check-config`."""
    assert check_config.read(path).application == "baton"


def test_cluster_yaml_passes_ray_up() -> None:
    """`ray up` fills in and validates the file; every node evaluates `baton env` before its `ray start`."""
    from ray.autoscaler._private import util

    raw = yaml.safe_load((DEPLOY / "ray/cluster.yaml").read_text())
    config = util.prepare_config(raw)
    util.validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    for commands in (raw["head_start_ray_commands"], raw["worker_start_ray_commands"]):
        [start] = [command for command in commands if "ray start" in command]
        assert start.index("baton env") < start.index("ray start")
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in raw["head_start_ray_commands"][-1]


def test_the_cloud_kinds_in_the_comment_are_what_ray_takes() -> None:
    """`ray up`'s own schema takes the node types that cluster.yaml shows in a comment, with Baton's resources in them."""
    from ray.autoscaler._private import util

    lines = (DEPLOY / "ray/cluster.yaml").read_text().splitlines()
    begin = lines.index("# available_node_types:")
    shown = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines[begin : begin + 6]))
    cluster = {"cluster_name": "baton", "provider": {"type": "aws", "region": "us-east-1"}, **shown}
    util.validate_config(util.fillout_defaults(cluster))
    types = shown["available_node_types"]
    assert {pool: types[pool]["resources"][f"baton_{pool}"] for pool in POOLS} == dict.fromkeys(POOLS, 1)


def test_a_machine_that_a_cloud_starts_gets_baton_before_ray() -> None:
    """What cluster.yaml shows in a comment replaces the provider's own set-up, and puts Baton where the start commands look for it."""
    from ray.autoscaler._private import util

    text = (DEPLOY / "ray/cluster.yaml").read_text()
    lines = text.splitlines()
    begin, end = lines.index("# setup_commands:"), next(i for i, line in enumerate(lines) if "pip install boto3" in line)
    shown = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines[begin : end + 1]))
    cluster = {**yaml.safe_load(text), "provider": {"type": "aws", "region": "us-east-1"}, **shown}
    config = util.merge_setup_commands(util.fillout_defaults(cluster))
    util.validate_config(config)
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert commands[:2] == shown["setup_commands"]
        assert commands[0].endswith(" ~/baton")
        assert "make setup LOCK=gpu" in commands[1]
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all(command.startswith("cd ~/baton && ") for command in starts)


# ---------------------------------------------------------------- KubeRay


def test_manifests_fit_their_kinds(manifests: list[Manifest]) -> None:
    """Every manifest has the fields its kind has, of the right type, and no others."""
    for manifest in manifests:
        jsonschema.validate(manifest, schema_of(manifest))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: overlay.name)
def test_rayservice_fits_kuberays_own_crd(overlay: Path) -> None:
    """KubeRay's CRD, where there is a copy of it, takes the RayService, with every object closed: misspelt fields fail here too."""
    folder = os.environ.get("BATON_KUBERAY_CRDS")
    if not folder:
        pytest.skip("BATON_KUBERAY_CRDS names no folder with KubeRay's helm-chart/kuberay-operator/crds")
    crd = yaml.load((Path(folder) / "ray.io_rayservices.yaml").read_text(), yaml.CSafeLoader)
    [schema] = [version["schema"]["openAPIV3Schema"] for version in crd["spec"]["versions"] if version["name"] == "v1"]
    schema["properties"]["metadata"] = {"type": "object", "additionalProperties": True}
    _close(schema)
    jsonschema.validate(next(manifest for manifest in rendered(overlay) if manifest["kind"] == "RayService"), schema)


def _close(schema: Manifest) -> None:
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    for child in [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(child, dict):
            _close(child)


def test_the_serve_config_is_the_overlays_own_file(manifests: list[Manifest]) -> None:
    """What KubeRay gets in a string is serve.yaml, and passes the check."""
    assert service(manifests)["serveConfigV2"] in {(overlay / "serve.yaml").read_text() for overlay in OVERLAYS}
    assert served(manifests).application == "baton"


@pytest.mark.parametrize("pool", POOLS)
def test_a_pod_has_room_for_one_worker_and_nothing_else(manifests: list[Manifest], pool: str) -> None:
    """A group's pod offers Ray what one worker of its pool asks for, exactly: GPUs, and the resource that only this pool asks for.
    No CPUs, which a router would take."""
    wanted = served(manifests).config.model_dump()[pool]
    offered = {name: float(amount) for name, amount in groups(manifests)[pool]["resources"].items()}
    assert wanted["resources"] == {f"baton_{pool}": 1}
    assert offered == {"CPU": 0.0, f"baton_{pool}": 1.0} | ({"GPU": wanted["num_gpus"]} if wanted["num_gpus"] else {})
    limits = container(groups(manifests)[pool]["template"])["resources"]["limits"]
    assert int(limits.get("nvidia.com/gpu", 0)) == wanted["num_gpus"]
    assert wanted["num_cpus"] == 0
    assert groups(manifests)[pool]["maxReplicas"] >= wanted["count"] + wanted["surge"]


def test_rays_autoscaler_sees_what_pods_offer(manifests: list[Manifest]) -> None:
    """What Ray's autoscaler takes a group's pod for is what Ray will have there: nothing is guessed from limits of Kubernetes' own."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _get_ray_resources_from_group_spec as seen

    for group in groups(manifests).values():
        amounts = {name: amount for name, amount in seen({"rayStartParams": {}, **group}, False).items() if name != "memory"}
        assert amounts == {name: float(amount) for name, amount in group["resources"].items()}


def test_routers_have_their_pods(manifests: list[Manifest]) -> None:
    """The smallest number of router pods has the CPUs for all routers, and no other group has any."""
    router = served(manifests).config.router
    group = groups(manifests)["router"]
    assert router.num_cpus > 0
    assert int(group["resources"]["CPU"]) // router.num_cpus * group["minReplicas"] >= router.replicas
    cluster = service(manifests)["rayClusterConfig"]
    assert {group["resources"]["CPU"] for group in cluster["workerGroupSpecs"] if group["groupName"] != "router"} == {"0"}
    assert cluster["headGroupSpec"]["resources"]["CPU"] == "0"


def test_the_controller_is_not_where_the_head_is(manifests: list[Manifest]) -> None:
    """The controller asks for what only routers' pods offer. With the head it would be gone for as long as that is, and workers that
    nobody asks for five minutes end themselves."""
    [application] = served(manifests).raw["applications"]
    [controller] = [deployment for deployment in application["deployments"] if deployment["name"] == "Controller"]
    options = controller["ray_actor_options"]
    assert options["num_cpus"] == 0  # as in deploy/app.py: given here, they are not added to those but take their place
    [name] = options["resources"]
    cluster = service(manifests)["rayClusterConfig"]
    assert name not in cluster["headGroupSpec"]["resources"]
    assert {group for group, spec in groups(manifests).items() if name in spec["resources"]} == {"router"}


def test_http_goes_to_routers_only(manifests: list[Manifest]) -> None:
    """The Service's target is a port by name that routers' pods alone have, with the number that Serve listens at."""
    spec = service(manifests)
    [port] = spec["serveService"]["spec"]["ports"]
    ports = [(name, own) for name, pod in pods(manifests).items() for own in container(pod)["ports"]]
    named = {name: own["containerPort"] for name, own in ports if own["name"] == "serve"}
    assert named == {"router": served(manifests).http_port}
    assert port["targetPort"] == "serve"
    assert port["port"] == served(manifests).http_port
    assert spec["excludeHeadPodFromServeSvc"] is True
    assert served(manifests).http_host == "0.0.0.0"


def test_probes_need_nothing_of_the_image(manifests: list[Manifest]) -> None:
    """The kubelet asks by itself, at ports that exist; KubeRay's own probes would call wget, and are replaced on every pod."""
    agent = 52365  # `ray start --dashboard-agent-listen-port`, its default
    for pod in pods(manifests).values():
        own = {port["name"]: port["containerPort"] for port in container(pod)["ports"]}
        for name in ("livenessProbe", "readinessProbe"):
            probe = container(pod)[name]
            port = (probe.get("httpGet") or probe["tcpSocket"])["port"]
            assert port == agent or port in own


def test_hooks_call_what_the_image_has(manifests: list[Manifest]) -> None:
    """A preStop hook is `baton`, with arguments it takes, or a tool of every Debian; and ends before the pod is killed."""
    from deploy.cli import parser

    for pod in pods(manifests).values():
        for hook in values(pod, "preStop"):
            command = hook["exec"]["command"]
            assert command[0] in {"baton", "sleep"}
            if command[0] == "baton":
                assert parser().parse_args(command[1:]).within == float(command[-1])
            assert float(command[-1]) < pod["spec"]["terminationGracePeriodSeconds"]


def test_a_drain_fits_into_the_hook(manifests: list[Manifest]) -> None:
    """`baton leave` waits as long as a worker may take to drain: drain_timeout_s + lease_s + 5 s (docs/draining.md)."""
    config = served(manifests).config
    for pool in POOLS:
        [hook] = values(groups(manifests)[pool], "preStop")
        assert float(hook["exec"]["command"][-1]) >= getattr(config, pool).drain_timeout_s + config.kv_transfer.lease_s + 5


def test_an_old_cluster_outlives_its_answers(manifests: list[Manifest]) -> None:
    """After an upgrade the old cluster stays for as long as its routers may take to finish their streams."""
    assert service(manifests)["rayClusterDeletionDelaySeconds"] > served(manifests).config.router.drain_timeout_s


def test_the_head_is_survived(manifests: list[Manifest]) -> None:
    """Ray's state is in Redis at the address and with the password that Redis has; nobody speaks to Ray without its token."""
    cluster = service(manifests)["rayClusterConfig"]
    options = cluster["gcsFaultToleranceOptions"]
    [(name, redis)] = of_kind(manifests, "Service").items()
    assert options["redisAddress"] == f"{name}:{redis['ports'][0]['port']}"
    [env] = container(pods(manifests)["baton-redis"])["env"]
    assert options["redisPassword"]["valueFrom"] == env["valueFrom"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["autoscalerOptions"]["version"] == "v2"


def test_ray_is_the_locks(manifests: list[Manifest]) -> None:
    """rayVersion, by which KubeRay chooses what it does, is the version both locks pin."""
    version = service(manifests)["rayClusterConfig"]["rayVersion"]
    for lock in ROOT.glob("requirements/*.lock"):
        assert f"\nray=={version}\n" in lock.read_text()


def test_keys_reach_routers_and_nobody_else(manifests: list[Manifest]) -> None:
    """Clients need a key; the file that routers read is in the mounted secret, and only their pods mount it."""
    path = Path(str(served(manifests).config.router.api_keys.file))
    mounts = [(name, mount) for name, pod in pods(manifests).items() for mount in container(pod).get("volumeMounts", [])]
    assert path.name == "keys"
    assert {name for name, mount in mounts if mount["mountPath"] == str(path.parent)} == {"router"}


def test_secrets_are_made_in_the_docs(manifests: list[Manifest]) -> None:
    """No manifest holds a secret, and docs/kubernetes.md says how to make every one that is asked for."""
    asked = {(ref["name"], ref["key"]) for key in ("secretKeyRef", "credentials") for ref in values(manifests, key)}
    asked |= {(volume["secretName"], "keys") for volume in values(manifests, "secret")}
    page = (ROOT / "docs/kubernetes.md").read_text()
    for name, key in asked:
        assert re.search(rf"create secret generic {name} --from-literal={key}=", page), (name, key)
    assert not of_kind([manifest | {"spec": {}} for manifest in manifests], "Secret")


def test_nobody_is_root(manifests: list[Manifest]) -> None:
    """Every pod runs as a user who is not root and cannot become it; Baton's as the one that the image was made for."""
    image = re.search(r"^USER (\d+):(\d+)$", (DEPLOY / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert image
    for name, pod in pods(manifests).items():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert name == "baton-redis" or (str(context["runAsUser"]), str(context["runAsGroup"])) == image.groups()


def test_network_policies_open_what_is_listened_at(manifests: list[Manifest]) -> None:
    """From outside there is HTTP to routers, and the operator to the head; the ports are those of the configuration. Between Baton's
    pods every port is open, because workers, side channels and UCX take random ones."""
    policies = of_kind(manifests, "NetworkPolicy")
    every = pods(manifests)
    opened = {
        (name, pod, port["port"])
        for name, policy in policies.items()
        for pod in selected(every, policy["podSelector"])
        for rule in policy["ingress"]
        for port in rule.get("ports", [{"port": "every"}])
    }
    http = served(manifests).http_port
    dashboard = {port["name"]: port["containerPort"] for port in container(every["head"])["ports"]}["dashboard"]
    ours = {"head", "router", *POOLS}
    expected = {("baton-pods", pod, "every") for pod in ours} | {
        ("baton-http", "router", http),
        ("baton-operator", "head", dashboard),
        ("baton-operator", "head", http),
        ("baton-redis", "baton-redis", 6379),
    }
    if "baton-prometheus" in policies:
        expected |= {("baton-prometheus", pod, "every") for pod in ours}
    assert opened == expected
    for name, policy in policies.items():  # one without `from` is open to the world
        assert all("from" in rule for rule in policy["ingress"]) or name == "baton-http"
    [inside] = policies["baton-pods"]["ingress"][0]["from"]
    assert selected(every, inside["podSelector"]) == ours


def test_budgets_leave_room_for_a_drain(manifests: list[Manifest]) -> None:
    """A budget keeps fewer pods than its group has: with as many, a node could never be drained."""
    config = served(manifests).config
    has = {"router": groups(manifests)["router"]["minReplicas"], "prefill": config.prefill.count, "decode": config.decode.count}
    for budget in of_kind(manifests, "PodDisruptionBudget").values():
        [group] = selected(pods(manifests), budget["selector"])
        assert 1 <= budget["minAvailable"] < has[group]


def test_prometheus_finds_ports_and_targets(manifests: list[Manifest]) -> None:
    """PodMonitor names ports that pods have; what is Baton's comes from the route that lists it, at the Service that KubeRay makes."""
    names = {port["name"] for pod in pods(manifests).values() for port in container(pod)["ports"]}
    for monitor in of_kind(manifests, "PodMonitor").values():
        assert selected(pods(manifests), monitor["selector"]) == {"head", "router", *POOLS}
        assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= names
    [name] = of_kind(manifests, "RayService")
    for config in of_kind(manifests, "ScrapeConfig").values():
        [found] = config["httpSDConfigs"]
        assert found["url"] == f"http://{name}-serve-svc:{served(manifests).http_port}/v1/baton/targets"


# ---------------------------------------------------------------- the image


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, one by one: lines that end in a backslash are joined, comments left out."""
    text = (DEPLOY / "docker/Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).replace("\\\n", " ").splitlines()
    pairs = (line.partition(" ") for line in lines if line.strip())
    return [(word, rest.strip()) for word, _, rest in pairs]


def test_the_dockerfile_builds_from_what_exists() -> None:
    """Every COPY takes what is in the repository and not kept out of the build, or comes from a stage before; for both locks."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    stages: set[str] = set()
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            assert base in stages | {"${PYTHON_IMAGE}"}
            stages.add(name)
        elif word == "COPY" and rest.startswith("--from="):
            assert rest.removeprefix("--from=").split()[0] in stages
        elif word == "COPY":
            for lock in ("cpu", "gpu"):
                for source in rest.replace("${LOCK}", lock).split()[:-1]:
                    assert (ROOT / source).exists(), source
                    assert source == "." or source.split("/")[0] in allowed, source
    assert stages == {"packages", "baton", "image"}


def test_the_image_has_every_package_of_baton() -> None:
    """What pyproject.toml installs is let into the build."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {name for name in project["tool"]["setuptools"]["packages"]["find"]["include"] if not name.endswith("*")}
    assert wanted <= {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}


def test_the_image_is_pinned_and_nobodys() -> None:
    """The base has a patch release and the packages a lock; the last word on who runs is a number that is not root's."""
    words = instructions()
    base = next(rest for word, rest in words if word == "ARG" and rest.startswith("PYTHON_IMAGE="))
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.11\.\d+-slim-bookworm", base)
    assert any(word == "RUN" and "setup_venv.py requirements/${LOCK}.lock" in rest for word, rest in words)
    assert [rest for word, rest in words if word == "USER"][-1].split(":")[0] not in {"0", "root"}


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash, as the image does")
def test_bash_in_the_image_has_the_environment(tmp_path: Path) -> None:
    """A `bash -c`, as KubeRay starts Ray, has what `baton env` prints; what the pod says itself wins, and nested shells ask once."""
    asked = tmp_path / "asked"
    stand_in = tmp_path / "baton"
    stand_in.write_text(f'#!/bin/sh\necho >>{asked}\necho "export RAY_SERVE_ENABLE_HA_PROXY=1"\n')
    stand_in.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BASH_ENV": str(DEPLOY / "docker/bash_env.sh")}
    done = subprocess.run(["bash", "-c", "bash -c 'echo $RAY_SERVE_ENABLE_HA_PROXY'"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert asked.read_text().count("\n") == 1
    assert environment.DEFAULTS["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
