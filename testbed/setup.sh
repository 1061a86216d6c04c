#!/usr/bin/env bash
# Make this machine ready for the lab: Debian packages, a virtual environment, Open vSwitch, the BPF program.
# Usage: testbed/setup.sh VENV. Runs as root or with sudo, asks nothing, does only what is still missing.
set -euo pipefail
fail() { echo "setup: $*" >&2; exit 3; }
[[ $EUID -eq 0 ]] || command -v sudo >/dev/null || fail "needs root, and there is no sudo: run make as root"
cd "$(dirname "$0")/.."
venv=$1
export DEBIAN_FRONTEND=noninteractive

packages=(
  python3 python3-venv mininet openvswitch-switch python3-openvswitch        # the lab; Mininet is not on PyPI
  clang libbpf-dev linux-libc-dev                                            # the GENEVE endpoint and session offload: BPF
  iproute2 iptables kmod ethtool procps                                      # interfaces, NAT, kernel modules
  iperf3 iputils-ping openssh-client openssh-server tcpdump tshark           # traffic and captures
  redis-server                                                               # session sharing between firewalls
  libnetfilter-queue-dev libpython3-dev                                      # routed firewalls take packets by NFQUEUE
  strongswan-charon strongswan-swanctl bird2                                 # VPN attachments: IPsec and BGP
  libstrongswan-standard-plugins libcharon-extra-plugins                     # strongSwan's cryptography, userspace ESP
  haproxy                                                                    # load balancers of the sandwich
  "$([[ $(. /etc/os-release; echo "$ID") == ubuntu ]] && echo linux-tools-generic || echo bpftool)"    # the tests
)

as_root() { if [[ $EUID -eq 0 ]]; then "$@"; else sudo --preserve-env=DEBIAN_FRONTEND "$@"; fi; }

# A package that brings a service would start it: these servers are for the lab's hosts, not for the machine.
# policy-rc.d is how Debian lets an administrator refuse that (Debian Policy 9.3.3.1).
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
trap 'rm -f "$log"; if grep -qs Bumpwire $policy; then as_root rm -f $policy; fi' EXIT

# A machine that has just been started updates itself, and apt waits for the lock of packages alone, not of lists.
LOCK_PATIENCE=600
update_lists() {
  local output deadline=$((SECONDS + LOCK_PATIENCE))
  until output=$(as_root apt-get update -qq 2>&1); do
    if [[ $output != *"Could not get lock"* || $SECONDS -ge $deadline ]]; then echo "$output"; return 1; fi
    sleep 1
  done
}

install_packages() {
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\n# while Bumpwire installs packages\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
  fi
  update_lists &&
    as_root apt-get -o DPkg::Lock::Timeout=$LOCK_PATIENCE install -y -qq --no-install-recommends "$@" &&
    if [[ -d /run/systemd/system ]]; then
      [[ " $* " != *" openssh-server "* ]] || as_root systemctl disable ssh.service ssh.socket || true
      [[ " $* " != *" redis-server "* ]] || as_root systemctl disable redis-server.service || true
      [[ " $* " != *" strongswan-charon "* ]] || as_root systemctl disable strongswan-starter.service || true
      [[ " $* " != *" bird2 "* ]] || as_root systemctl disable bird.service || true
      [[ " $* " != *" haproxy "* ]] || as_root systemctl disable haproxy.service || true
    fi
}

command -v dpkg-query >/dev/null || fail "needs Debian 12 or 13, or Ubuntu 22.04 or 24.04: dpkg is not here"
installed() { dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null | sed -n 's/^installed //p'; }
mapfile -t missing < <(comm -23 <(printf '%s\n' "${packages[@]}" | sort) <(installed | sort))
if [[ ${#missing[@]} -gt 0 ]]; then
  echo "setup: installing ${missing[*]}"
  install_packages "${missing[@]}" >"$log" 2>&1 || { cat "$log" >&2; fail "apt-get could not install ${missing[*]}"; }
fi

# The stamp names what the environment was made from, so that a new lock or a new Python makes it again.
stamp=$venv/setup-$(cat requirements.lock pyproject.toml testbed/setup.sh <(/usr/bin/python3 -V) <(pwd) | sha256sum | cut -c1-16)
if [[ ! -e $stamp ]]; then
  echo "setup: making the virtual environment $venv"
  mkdir -p "$venv" 2>/dev/null || fail "cannot make $venv: choose another folder with make setup VENV=FOLDER"
  /usr/bin/python3 -m venv --system-site-packages "$venv"
  pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-deps)
  "${pip[@]}" --only-binary :all: --require-hashes -r requirements.lock
  "${pip[@]}" --no-build-isolation --editable .
  # No wheels of this one; its C was written for Python 3.11 and older, so Cython writes it anew.
  CC=clang LDSHARED="clang -shared" "${pip[@]}" --no-build-isolation --require-hashes -r <(
    echo "netfilterqueue==1.1.0 --hash=sha256:e30eff999325617f54bd95b3d8d3353214cc77b5e3188f90ec3a6f6288888d72"
  )
  rm -f "$venv"/setup-*
  touch "$stamp"
fi

"$venv/bin/python" -m firewall_vnf.bpf_object testbed/bpf/*.c firewall_vnf/bpf/*.c
as_root "$venv/bin/python" -m testbed.openvswitch
