#!/usr/bin/env bash
# Install and start a one-node Slurm for the tests marked `slurm`: real munged, slurmctld and slurmd, no systemd.
#   bash .ci/slurm.sh        as root on Debian or Ubuntu; a second call finds the node idle and does nothing
# Ends with one line and status 0 when the node takes jobs, else with one line on stderr and status 1.
set -euo pipefail

conf=/etc/slurm/slurm.conf
logs=/var/log/slurm
mark="# one node for tests, written by .ci/slurm.sh"

fail() { echo "slurm.sh: $*" >&2; exit 1; }

# Says "idle", "mixed", "allocated", ... or nothing while no controller answers.
node_state() { timeout 10 sinfo --noheader --format=%T 2>/dev/null | head -n 1 || true; }

takes_jobs() { case "$(node_state)" in idle | mixed | allocated) return 0 ;; *) return 1 ;; esac; }

install_packages() {
  command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
  command -v apt-get >/dev/null || fail "slurm-wlm and munge are not here, and there is no apt-get to install them"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq install -y --no-install-recommends slurm-wlm munge >/dev/null 2>&1 \
    || { apt-get -qq update && apt-get -qq install -y --no-install-recommends slurm-wlm munge >/dev/null; } \
    || fail "apt-get cannot install slurm-wlm and munge"
}

start_munge() {
  [ -s /etc/munge/munge.key ] || fail "/etc/munge/munge.key is missing; the munge package makes it"
  install -d -o munge -g munge -m 0755 /run/munge
  munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return
  runuser -u munge -- munged --force >/dev/null 2>&1 || fail "munged does not start"
  for _ in $(seq 20); do
    munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return
    sleep 0.25
  done
  fail "munged runs but does not answer"
}

# cred_expire: a requeued job waits for the old credential to expire, two minutes unless told otherwise.
# linuxproc and task/none: a container has no writable cgroups. RealMemory is what slurmd sees, less a tenth.
write_conf() {
  local host cpus memory
  [ ! -e "$conf" ] || grep -qF "$mark" "$conf" || fail "$conf is another Slurm's; it is left as it is"
  host=$(hostname -s)
  cpus=$(nproc --all)
  memory=$(($(awk '/^MemTotal:/ {print $2}' /proc/meminfo) * 9 / 10240))
  install -d /etc/slurm /var/spool/slurmd /var/spool/slurmctld "$logs"
  cat >"$conf" <<CONF
$mark
ClusterName=one
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5
ReturnToService=2
KillWait=10
MinJobAge=3600
SlurmdSpoolDir=/var/spool/slurmd
StateSaveLocation=/var/spool/slurmctld
SlurmctldLogFile=$logs/slurmctld.log
SlurmdLogFile=$logs/slurmd.log
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
NodeName=$host CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=gpu Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
}

start_slurm() {
  timeout 10 scontrol ping 2>/dev/null | grep -q "UP" || slurmctld || fail "slurmctld does not start; see $logs"
  pidof slurmd >/dev/null || slurmd || fail "slurmd does not start; see $logs"
  for i in $(seq 60); do
    takes_jobs && return
    [ $((i % 10)) -ne 0 ] || scontrol update NodeName="$(hostname -s)" State=RESUME 2>/dev/null || true
    sleep 0.5
  done
  fail "the node is '$(node_state)' after 30 s; see $logs"
}

takes_jobs 2>/dev/null && { echo "slurm: a node is already $(node_state)"; exit 0; }
[ "$(id -u)" = 0 ] || fail "must be root to install and start Slurm"
install_packages
start_munge
write_conf
start_slurm
echo "slurm: $(sinfo --version) with one node, $(node_state), $(sinfo --noheader --format='%c CPUs, %m MiB')"
