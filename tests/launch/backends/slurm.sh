#!/bin/bash
# A real SLURM on this machine alone, for the tests: `slurm.sh start DIR`, then SLURM_CONF=DIR/slurm.conf; `slurm.sh stop DIR`. As root.
set -eu
action=$1 dir=$2 host=$(hostname -s)
if [ "$action" = stop ]; then
    for name in slurmctld slurmd; do
        [ -f "$dir/$name.pid" ] && kill "$(cat "$dir/$name.pid")" || true
    done
    exit 0
fi
mkdir -p "$dir/state" "$dir/spool" /run/munge
chown munge: /run/munge
[ -f /etc/munge/munge.key ] || mungekey -c
pgrep -x munged >/dev/null || runuser -u munge -- /usr/sbin/munged
cat > "$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=low Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=$host MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
slurmctld -f "$dir/slurm.conf"
slurmd -f "$dir/slurm.conf"
