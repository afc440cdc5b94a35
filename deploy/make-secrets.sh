#!/bin/sh
# Make the secrets that compose.yaml reads, in deploy/secrets/ or the folder given. Existing files
# are kept.
#
#   deploy/make-secrets.sh [folder]
#
#   signing.key       signs records in Redis: the same on every API and worker, never in Redis
#   api.key           the first API key, with every right; make narrower ones with
#                     `sandlot key create`
#   metrics.token     reads /metrics of API and workers, and nothing else: for Prometheus
#   callback.secret   signs callbacks, if SANDLOT_CALLBACK_HOSTS allows any; their receivers need it
#   grafana.password  the password of Grafana's user `admin`
#   redis-api.url, redis-worker.url
#                     Valkey's address, with a user and password for each role; workers on other
#                     hosts need a copy with rediss:// and the public name
#   redis-admin.url, redis-metrics.url
#                     the same for operators (sandlot doctor, sandlot key) and for monitoring
#   valkey.acl        Valkey's users, with the SHA-256 of the same passwords
set -eu

folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
# The folder keeps other users out. The files must be readable by the containers' user, whose number
# belongs to no user of this host, and engines mount them into containers with their mode here.
chmod 700 "$folder"
umask 022

random_hex() { od -An -vN "$1" -tx1 /dev/urandom | tr -d ' \n'; }

keep() { [ -s "$folder/$1" ] && echo "kept  $folder/$1"; }

put() { # name, text; the rename makes it atomic
    printf '%s\n' "$2" > "$folder/.$1"
    mv "$folder/.$1" "$folder/$1"
    echo "made  $folder/$1"
}

keep signing.key || put signing.key "$(random_hex 32)"
keep api.key || put api.key "sk_$(random_hex 8).$(od -An -vN 32 -tu1 /dev/urandom | tr -s ' \n' '\n' | awk '
    BEGIN { alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" }
    NF { bits = bits * 256 + $1; count += 8; while (count >= 6) { count -= 6; unit = 2 ^ count; digit = int(bits / unit); bits -= digit * unit; printf "%s", substr(alphabet, digit + 1, 1) } }
    END { printf "%s", substr(alphabet, bits * 2 ^ (6 - count) + 1, 1) }')"

keep metrics.token || put metrics.token "$(random_hex 32)"
keep callback.secret || put callback.secret "whsec_$(head -c 32 /dev/urandom | base64)"
keep grafana.password || put grafana.password "$(random_hex 16)"

# Each role's keys, channels and commands, as `sandlot redis-acl` prints them; a test compares both.
rules() {
    case $1 in
        api) echo "~rq:* ~sandlot:* &rq:* &sandlot:* -@all +@connection +@read +@write +@transaction +@pubsub -@scripting +eval +evalsha +script|load +script|exists +time -@dangerous +info -scan -randomkey" ;;
        worker) echo "~rq:* ~sandlot:beats:* ~sandlot:breakers ~sandlot:breakers:changed ~sandlot:build:* ~sandlot:builds:* ~sandlot:builds:changed ~sandlot:callback:* ~sandlot:callbacks ~sandlot:callbacks:due ~sandlot:cancels:* ~sandlot:capped ~sandlot:caps ~sandlot:crashes:* ~sandlot:dead-letters ~sandlot:depth ~sandlot:drained ~sandlot:due ~sandlot:ended ~sandlot:function:* ~sandlot:functions:changed ~sandlot:idempotency:* ~sandlot:jobs-of:* ~sandlot:leases ~sandlot:live:* ~sandlot:lock:* ~sandlot:logs:* ~sandlot:parked:* ~sandlot:placements ~sandlot:promised ~sandlot:requeues ~sandlot:result:* ~sandlot:ring:* ~sandlot:schedules ~sandlot:schema ~sandlot:secrets:changed ~sandlot:taken:* ~sandlot:to-waiter:* ~sandlot:to-worker:* ~sandlot:turn ~sandlot:worker:* %R~sandlot:bundle-chunks:* %R~sandlot:bundle-users:* %R~sandlot:functions %R~sandlot:secrets &rq:* &sandlot:* -@all +@connection +@read +@write +@transaction +@pubsub -@scripting +eval +evalsha +script|load +script|exists +time -@dangerous +info -scan -randomkey" ;;
        admin) echo "~rq:* ~sandlot:* &rq:* &sandlot:* -@all +@connection +@read +@write +@transaction +@pubsub -@scripting +eval +evalsha +script|load +script|exists +time -@dangerous +info -scan -randomkey +scan +config|get +client|list +slowlog|get +slowlog|len +latency|latest +memory|usage +memory|stats" ;;
        metrics) echo "%R~rq:canceled:* %R~rq:failed:* %R~rq:finished:* %R~rq:queue:* %R~rq:queues %R~rq:scheduled:* %R~rq:wip:* %R~rq:worker:* %R~rq:workers %R~sandlot:beats:* %R~sandlot:breakers %R~sandlot:capped %R~sandlot:caps %R~sandlot:dead-letters %R~sandlot:depth %R~sandlot:due %R~sandlot:ended %R~sandlot:functions %R~sandlot:leases %R~sandlot:parked:* %R~sandlot:placements %R~sandlot:requeues %R~sandlot:ring:* %R~sandlot:worker:* %R~rq:workers:* resetchannels -@all +@connection +@read +time -@dangerous +info -scan -randomkey" ;;
    esac
}

# These files contain the same passwords, so they are made together.
roles="api worker admin metrics"
have=0
for name in redis-api.url redis-worker.url redis-admin.url redis-metrics.url valkey.acl; do
    if keep "$name"; then have=$((have + 1)); fi
done
if [ "$have" -ne 0 ] && [ "$have" -ne 5 ]; then
    echo "$folder has some of redis-*.url and valkey.acl, but not all: remove them to make new ones" >&2
    exit 1
fi
if [ "$have" -eq 0 ]; then
    acl="user default on nopass nocommands +ping"
    for role in $roles; do
        password=$(random_hex 32)
        digest=$(printf %s "$password" | sha256sum | cut -d' ' -f1)
        acl="$acl
user sandlot-$role on #$digest $(rules "$role")"
        put "redis-$role.url" "redis://sandlot-$role:$password@valkey:6379/0"
    done
    put valkey.acl "$acl"
fi
