"""What Kubernetes takes: JSON schemas of the kinds in deploy/kuberay, with the fields used there and no others.

Written by hand. Names, types, enumerations and required fields are those of
- KubeRay v1.7.0, helm-chart/kuberay-operator/crds (ray.io/v1), https://github.com/ray-project/kuberay, Apache-2.0;
- Kubernetes 1.30, https://kubernetes.io/docs/reference/kubernetes-api/: core/v1, apps/v1, policy/v1, networking.k8s.io/v1;
- prometheus-operator v0.76, its API reference: monitoring.coreos.com/v1 and v1alpha1.
Objects are closed, so that a misspelt field fails, as it would with `kubectl apply`: a new field is added here after a look there.
``$BATON_KUBERAY_CRDS`` names a folder with KubeRay's own CRDs for the test that holds the RayService against those as well.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "array", "items": TEXT, "minItems": 1}
TEXT_BY_NAME: Schema = {"type": "object", "additionalProperties": TEXT}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
PORT_NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$"}
PORT_OR_NAME: Schema = {"anyOf": [PORT, PORT_NAME]}
QUANTITY: Schema = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^[0-9.]+(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}]}
DURATION: Schema = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}


def closed(required: str = "", /, **fields: Schema) -> Schema:
    """An object with these fields and no others; ``required`` are some of their names."""
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def list_of(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*words: str) -> Schema:
    return {"enum": list(words)}


META = closed("name", name=TEXT, labels=TEXT_BY_NAME, annotations=TEXT_BY_NAME)
SELECTOR = closed(matchLabels=TEXT_BY_NAME)
SECRET_KEY = closed("name key", name=TEXT, key=TEXT, optional=FLAG)
VALUE_FROM = closed("secretKeyRef", secretKeyRef=SECRET_KEY)

ACTION: dict[str, Schema] = {
    "exec": closed("command", command=TEXTS),
    "httpGet": closed("path port", path={"type": "string", "pattern": "^/"}, port=PORT_OR_NAME),
    "tcpSocket": closed("port", port=PORT_OR_NAME),
}
PROBE = {
    **closed("", **ACTION, initialDelaySeconds=COUNT, periodSeconds=COUNT, timeoutSeconds=COUNT, failureThreshold=COUNT),
    "oneOf": [{"required": [kind]} for kind in ACTION],
}
CONTAINER = closed(
    "name image resources securityContext livenessProbe readinessProbe",  # Kubernetes needs the first two only; ours have all
    name=TEXT,
    image=TEXT,
    command=TEXTS,
    ports=list_of(closed("containerPort name", name=PORT_NAME, containerPort=PORT)),
    env=list_of(closed("name", name=TEXT, value=TEXT, valueFrom=VALUE_FROM)),
    livenessProbe=PROBE,
    readinessProbe=PROBE,
    lifecycle=closed(preStop=closed("exec", exec=ACTION["exec"])),
    securityContext=closed(
        allowPrivilegeEscalation={"const": False}, readOnlyRootFilesystem=FLAG, capabilities=closed(drop={"const": ["ALL"]}, add=TEXTS)
    ),
    resources=closed(
        "requests limits",
        requests={"type": "object", "additionalProperties": QUANTITY},
        limits={"type": "object", "additionalProperties": QUANTITY},
    ),
    volumeMounts=list_of(closed("name mountPath", name=TEXT, mountPath=TEXT, readOnly=FLAG)),
)
POD = closed(
    "containers securityContext",
    containers=list_of(CONTAINER),
    automountServiceAccountToken=FLAG,
    terminationGracePeriodSeconds=COUNT,
    securityContext=closed(
        "runAsNonRoot runAsUser seccompProfile",
        runAsNonRoot={"const": True},
        runAsUser={"type": "integer", "minimum": 1},
        runAsGroup=COUNT,
        fsGroup=COUNT,
        seccompProfile=closed("type", type=one_of("RuntimeDefault", "Localhost", "Unconfined")),
    ),
    topologySpreadConstraints=list_of(
        closed(
            "maxSkew topologyKey whenUnsatisfiable",
            maxSkew=COUNT,
            topologyKey=TEXT,
            whenUnsatisfiable=one_of("DoNotSchedule", "ScheduleAnyway"),
            labelSelector=SELECTOR,
        )
    ),
    tolerations=list_of(
        closed(
            key=TEXT,
            operator=one_of("Exists", "Equal"),
            effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
            value=TEXT,
            tolerationSeconds=COUNT,
        )
    ),
    volumes=list_of(closed("name secret", name=TEXT, secret=closed("secretName", secretName=TEXT, defaultMode=COUNT))),
)
TEMPLATE = closed("metadata spec", metadata=closed("labels", labels=TEXT_BY_NAME), spec=POD)
SERVICE_SPEC = closed(
    "ports",
    type=one_of("ClusterIP", "NodePort", "LoadBalancer"),
    selector=TEXT_BY_NAME,
    ports=list_of(closed("port", name=PORT_NAME, port=PORT, targetPort=PORT_OR_NAME)),
)

RAY_CLUSTER = closed(
    "headGroupSpec workerGroupSpecs rayVersion",
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=closed(version=one_of("v1", "v2"), idleTimeoutSeconds=COUNT),
    authOptions=closed(mode=one_of("disabled", "token")),
    gcsFaultToleranceOptions=closed("redisAddress", redisAddress=TEXT, redisPassword=closed("valueFrom", valueFrom=VALUE_FROM)),
    headGroupSpec=closed("template", resources=TEXT_BY_NAME, template=TEMPLATE),
    workerGroupSpecs=list_of(
        closed(
            "groupName minReplicas maxReplicas template",
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            resources=TEXT_BY_NAME,
            template=TEMPLATE,
        )
    ),
)
RAY_SERVICE = closed(
    "serveConfigV2 rayClusterConfig",
    serveConfigV2=TEXT,
    upgradeStrategy=closed("type", type=one_of("NewCluster", "NewClusterWithIncrementalUpgrade", "None")),
    rayClusterDeletionDelaySeconds=COUNT,
    excludeHeadPodFromServeSvc=FLAG,
    serveService=closed("spec", spec=SERVICE_SPEC),
    rayClusterConfig=RAY_CLUSTER,
)

PEER = closed(namespaceSelector=closed(matchLabels=TEXT_BY_NAME), podSelector=SELECTOR)
RELABELINGS = list_of(closed(action=one_of("keep", "drop", "replace"), sourceLabels=TEXTS, targetLabel=TEXT, replacement=TEXT, regex=TEXT))

SPECS: dict[tuple[str, str], Schema] = {
    ("ray.io/v1", "RayService"): RAY_SERVICE,
    ("v1", "Service"): SERVICE_SPEC,
    ("apps/v1", "StatefulSet"): closed(
        "serviceName selector template",
        serviceName=TEXT,
        replicas=COUNT,
        selector=SELECTOR,
        template=TEMPLATE,
        volumeClaimTemplates=list_of(
            closed(
                "metadata spec",
                metadata=META,
                spec=closed(
                    "accessModes resources",
                    accessModes=list_of(one_of("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod")),
                    resources=closed("requests", requests=closed("storage", storage=QUANTITY)),
                ),
            )
        ),
    ),
    # Of RayCluster's pods, which have no scale subresource, only a whole number that stays:
    # https://kubernetes.io/docs/tasks/run-application/configure-pdb/#arbitrary-controllers-and-selectors
    ("policy/v1", "PodDisruptionBudget"): closed("minAvailable selector", minAvailable={"type": "integer"}, selector=SELECTOR),
    ("networking.k8s.io/v1", "NetworkPolicy"): closed(
        "podSelector policyTypes ingress",
        podSelector=SELECTOR,
        policyTypes=list_of(one_of("Ingress", "Egress")),
        ingress=list_of(
            closed("", **{"from": list_of(PEER)}, ports=list_of(closed("port", protocol=one_of("TCP", "UDP"), port=PORT_OR_NAME)))
        ),
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): closed(
        "selector podMetricsEndpoints",
        selector=SELECTOR,
        podMetricsEndpoints=list_of(closed("port", port=PORT_NAME, interval=DURATION, relabelings=RELABELINGS)),
    ),
    ("monitoring.coreos.com/v1alpha1", "ScrapeConfig"): closed(
        scrapeInterval=DURATION,
        httpSDConfigs=list_of(
            closed(
                "url",
                url={"type": "string", "pattern": "^https?://"},
                refreshInterval=DURATION,
                authorization=closed("credentials", type=TEXT, credentials=SECRET_KEY),
            )
        ),
        relabelings=RELABELINGS,
    ),
}


def schema_of(manifest: dict[str, Any]) -> Schema:
    """That of a manifest's kind. KeyError for one that is not here."""
    spec = SPECS[manifest["apiVersion"], manifest["kind"]]
    return closed("apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata=META, spec=spec)
