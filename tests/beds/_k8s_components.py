"""The programs of the Kubernetes bed: etcd, kube-apiserver, containerd, kubelet, and their flags.

Everything listens on 127.0.0.1 or on a socket in the bed's own directory.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import _bed
from _k8s_objects import NODE

# Below the range that the kernel hands out, away from what Kubernetes uses by default.
ETCD_PORT, ETCD_PEER_PORT, API_PORT, KUBELET_PORT = PORTS = (26379, 26380, 26443, 26250)
SERVER = f"https://127.0.0.1:{API_PORT}"
NAMES = ("etcd", "kube-apiserver", "containerd", "kubelet")
# The kubelet puts its device plugin socket there, whatever its --root-dir is
# (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/constants.go).
KUBELET_SOCKET = Path("/var/lib/kubelet/device-plugins/kubelet.sock")


def daemon(state: Path, name: str) -> _bed.Daemon:
    """Return the handle of one of NAMES."""
    return _bed.Daemon(name, state)


def containerd_socket(state: Path) -> Path:
    """Return the path of containerd's socket."""
    return state / "containerd.sock"


def require_alone() -> None:
    """Refuse to start while somebody else listens where the bed is going to."""
    if kubelet_answers():
        raise _bed.BedError(
            f"another kubelet listens on {KUBELET_SOCKET}, and two cannot share a machine; "
            "stop it or use another machine"
        )
    for port in PORTS:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                raise _bed.BedError(
                    f"127.0.0.1:{port} is in use by a process that this bed did not start; "
                    f"end that process (`ss -ltnp sport = :{port}` names it)"
                ) from None


def kubelet_answers() -> bool:
    """Tell whether a living process listens on KUBELET_SOCKET."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(KUBELET_SOCKET)) == 0


def start_etcd(state: Path) -> None:
    """Start etcd; only the holder of a certificate of the bed's CA can talk to it."""
    pki = state / "pki"
    files = {"trusted-ca-file": "ca.pem", "cert-file": "etcd.pem", "key-file": "etcd.key"}
    flags = ["--name=bed", f"--data-dir={state / 'etcd'}", "--unsafe-no-fsync"]
    for kind, port, prefix in (
        ("client", ETCD_PORT, ""),
        ("peer", ETCD_PEER_PORT, "peer-"),
    ):
        url = f"https://127.0.0.1:{port}"
        flags += [f"--listen-{kind}-urls={url}", f"--{prefix}client-cert-auth"]
        flags += [f"--{prefix}{flag}={pki / name}" for flag, name in files.items()]
    flags += [
        f"--advertise-client-urls=https://127.0.0.1:{ETCD_PORT}",
        f"--initial-advertise-peer-urls=https://127.0.0.1:{ETCD_PEER_PORT}",
        f"--initial-cluster=bed=https://127.0.0.1:{ETCD_PEER_PORT}",
    ]
    daemon(state, "etcd").start(["etcd", *flags])


def start_apiserver(state: Path, programs: Path) -> None:
    """Start kube-apiserver: node and role based authorization, no service accounts for pods."""
    pki = state / "pki"
    flags = {
        "etcd-servers": f"https://127.0.0.1:{ETCD_PORT}",
        "etcd-cafile": pki / "ca.pem",
        "etcd-certfile": pki / "etcd.pem",
        "etcd-keyfile": pki / "etcd.key",
        "bind-address": "127.0.0.1",
        "advertise-address": "127.0.0.1",
        "secure-port": API_PORT,
        "tls-cert-file": pki / "apiserver.pem",
        "tls-private-key-file": pki / "apiserver.key",
        "cert-dir": pki,
        "client-ca-file": pki / "ca.pem",
        "token-auth-file": pki / "tokens.csv",
        "authorization-mode": "Node,RBAC",
        "disable-admission-plugins": "ServiceAccount",
        "service-account-issuer": SERVER,
        "service-account-key-file": pki / "service-account.pub",
        "service-account-signing-key-file": pki / "service-account.key",
        "service-cluster-ip-range": "10.96.0.0/24",
        "endpoint-reconciler-type": "none",
        "kubelet-certificate-authority": pki / "ca.pem",
        "kubelet-client-certificate": pki / "admin.pem",
        "kubelet-client-key": pki / "admin.key",
        "kubelet-preferred-address-types": "InternalIP",
    }
    _start(state, "kube-apiserver", programs / "kube-apiserver", flags)


def start_containerd(state: Path) -> None:
    """Start a containerd that keeps everything below `state`."""
    cri = "io.containerd.grpc.v1.cri"
    tables: dict[str, dict[str, object]] = {
        "": {
            "version": 2,
            "root": state / "containerd",
            "state": state / "run",
        },
        "grpc": {"address": containerd_socket(state)},
        'plugins."io.containerd.internal.v1.opt"': {"path": state / "opt"},
        f'plugins."{cri}"': {
            "sandbox_image": "localhost/gangway-pause:1",
            # Without CAP_SYS_RESOURCE nobody may lower an oom_score_adj; runc only says
            # "can't get final child's PID from pipe".
            "restrict_oom_score_adj": True,
            "disable_apparmor": True,
            "stream_server_address": "127.0.0.1",
            "stream_server_port": "0",
        },
        f'plugins."{cri}".cni': {"bin_dir": state / "cni", "conf_dir": state / "cni"},
        f'plugins."{cri}".containerd.runtimes.runc': {"runtime_type": "io.containerd.runc.v2"},
        f'plugins."{cri}".containerd.runtimes.runc.options': {"Root": state / "runc"},
    }
    config = state / "containerd.toml"
    config.write_text(_toml(tables))
    daemon(state, "containerd").start(["containerd", "--config", config])


def start_kubelet(state: Path, programs: Path) -> None:
    """Start the kubelet of the only node."""
    pki = state / "pki"
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{containerd_socket(state)}",
        "address": "127.0.0.1",
        "port": KUBELET_PORT,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "tlsCertFile": str(pki / "kubelet.pem"),
        "tlsPrivateKeyFile": str(pki / "kubelet.key"),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(pki / "ca.pem")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "podLogsDir": str(state / "pod-logs"),
        "volumePluginDir": str(state / "volume-plugins"),
        # The machine may have swap, cgroup v1, little disk and no systemd.
        "failSwapOn": False,
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "evictionHard": dict.fromkeys(
            ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available"), "0%"
        ),
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "maxPods": 500,
    }
    (state / "kubelet.json").write_text(json.dumps(config, indent=1))
    flags = {
        "config": state / "kubelet.json",
        "kubeconfig": state / f"{NODE}.kubeconfig",
        "root-dir": state / "kubelet",
        "cert-dir": pki,
        "hostname-override": NODE,
        # The kubelet refuses a loopback address; with an external cloud provider the node's
        # address is ours to write.
        "cloud-provider": "external",
    }
    _start(state, "kubelet", programs / "kubelet", flags)


def _start(state: Path, name: str, program: Path, flags: dict[str, object]) -> None:
    daemon(state, name).start([program, *(f"--{key}={value}" for key, value in flags.items())])


def _toml(tables: dict[str, dict[str, object]]) -> str:
    lines = []
    for table, values in tables.items():
        lines += [f"[{table}]"] if table else []
        for key, value in values.items():
            # TOML writes booleans, integers and plain strings as JSON does.
            plain = value if isinstance(value, (bool, int)) else str(value)
            lines.append(f"{key} = {json.dumps(plain)}")
    return "\n".join(lines) + "\n"
