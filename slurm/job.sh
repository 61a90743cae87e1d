# Sourced by the two sbatch templates: the cluster's facts, and a run that survives its time limit.
# shellcheck shell=bash
#
#   listen                      from here on the signals are heard; a template's first line after this file
#   prepare [FOLDER]            modules, environment, threads; FOLDER is the project's, here unless named
#   run_once COMMAND [WORD...]  run it, pass USR1 and TERM on, requeue this job when it has to continue
#
# Slurm sends USR1 to the batch shell alone (--signal=B:USR1@SECONDS), and a job that merely ends is not
# started again; so the shell passes the signal on, waits, and asks for the requeue itself. The command's
# status 85 (EXIT_RESUMABLE of harness/progress.py) means: all saved, the same command continues. A command that has not
# ended shortly before the limit is requeued all the same: everything resumes from its last whole file.
# The facts are slurm/cluster.env, or the file that CLUSTER_ENV names.

say() { echo "$(date +%T) job ${SLURM_JOB_ID:-?}: $*" >&2; }

listen() {
  child="" limit="" ended=""
  trap 'limit=1; say "USR1: the time limit is near"; [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null || true' USR1
  trap 'ended=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM
}

prepare() {
  local project="${1:-.}" facts="${CLUSTER_ENV:-${1:-.}/slurm/cluster.env}"
  export PYTHONUNBUFFERED=1
  export RUN_IN_PROGRESS_STATUS=75  # harness/errors.py: a run that another process is making has not failed
  unset VENV
  set +u  # other people's shell code may read what nobody has set
  # shellcheck disable=SC1090  # named by the user
  if [ -f "$facts" ]; then
    set -a  # as slurm/submit.py reads it: JUKEMIR_PYTHON and the like are for Python
    . "$facts"
    set +a
  elif [ -n "${CLUSTER_ENV:-}" ]; then
    say "CLUSTER_ENV=$CLUSTER_ENV is no file"
    exit 2
  fi
  # shellcheck disable=SC2086  # a list of names
  [ -z "${MODULES:-}" ] || module load $MODULES
  [ -n "${VENV+set}" ] || { [ ! -f "$project/.venv/bin/activate" ] || VENV=.venv; }
  case "${VENV:-}" in "" | /*) ;; *) VENV="$project/$VENV" ;; esac
  # shellcheck disable=SC1091  # made by make, or named in the facts
  [ -z "${VENV:-}" ] || . "$VENV/bin/activate"
  set -u
  # as many threads as the job was given processors: on a shared node the default is all of them
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / ${PROCESSES:-1}))
    export OMP_NUM_THREADS=$((OMP_NUM_THREADS > 0 ? OMP_NUM_THREADS : 1))
  fi
}

# The final status of a run, for `grid.py --report`; a run that continues later has none yet.
record() {
  [ -n "${RUN_STATUS:-}" ] || return 0
  mkdir -p "$RUN_STATUS"
  echo "$1" >"$RUN_STATUS/.$RUN_INDEX.tmp"
  mv "$RUN_STATUS/.$RUN_INDEX.tmp" "$RUN_STATUS/$RUN_INDEX"
}

requeue() {
  local job="$SLURM_JOB_ID" most="${MAX_REQUEUES:-100}"
  [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "$most" ]; then
    say "requeued $most times and still not finished; given up (MAX_REQUEUES)"
  else
    say "not finished, requeued to continue"
    if scontrol requeue "$job"; then
      sleep 60  # Slurm ends this shell; it must not end by itself before
      exit 85
    fi
    say "scontrol requeue $job failed; submit the same run again to continue"
  fi
  record 85
  exit 85
}

run_once() {
  local status=0 left
  RUN_INDEX="${RUN_INDEX:-${SLURM_ARRAY_TASK_ID:-0}}"
  [ -z "${RUN_STATUS:-}" ] || rm -f "$RUN_STATUS/$RUN_INDEX"
  [ -z "$limit" ] || requeue
  "$@" &
  child=$!
  wait "$child" || status=$?
  if [ -n "$limit$ended" ]; then  # a trap ends `wait` early, so the child may still be at work
    for ((left = ${SIGNAL_LEAD:-60} * 3 / 4; left > 0; left--)); do
      kill -0 "$child" 2>/dev/null || break
      sleep 1
    done
    if kill -0 "$child" 2>/dev/null; then
      say "still at work shortly before the limit"
      status=85
    else
      status=0
      wait "$child" || status=$?
    fi
  fi
  # after a TERM (scancel, preemption) whoever ended the job decides, so there is no requeue from here;
  # 138 = 128 + USR1: the signal met a command that was not yet ready to handle it; torchrun ends with 1 whatever the
  # status of its processes
  [ "${PROCESSES:-1}" = 1 ] || [ -z "$limit" ] || [ "$status" != 1 ] || status=85
  # 143 = 128 + TERM: Slurm's signal and the one passed on met; the second ends a command while it saves
  [ -z "$ended" ] || [ "$status" != 143 ] || status=85
  if [ -z "$ended" ] && { [ "$status" = 85 ] || { [ -n "$limit" ] && [ "$status" = 138 ]; }; }; then
    requeue
  fi
  record "$status"
  exit "$status"
}
