#!/bin/sh
# Make the secrets that compose.yaml reads, in deploy/secrets/ or the folder given. What is there already is kept.
#
#   deploy/make-secrets.sh [folder]
#
#   signing.key   signs what is in Redis: the same on every API and worker, never in Redis
#   api.key       the first API key, with every right; make narrower ones with `sandlot key create`
#   redis.url     where Valkey is and the password to it; for workers elsewhere, a copy with rediss:// and the public name
#   valkey.acl    Valkey's users: the same password as its SHA-256
set -eu

folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
# The folder keeps others out. The files must be readable by the containers' user, whose number means nobody on this host, and engines
# mount them into containers with the mode they have.
chmod 700 "$folder"
umask 022

random_hex() { od -An -vN "$1" -tx1 /dev/urandom | tr -d ' \n'; }

keep() { [ -s "$folder/$1" ] && echo "kept  $folder/$1"; }

put() { # name, text: complete or not at all
    printf '%s\n' "$2" > "$folder/.$1"
    mv "$folder/.$1" "$folder/$1"
    echo "made  $folder/$1"
}

keep signing.key || put signing.key "$(random_hex 32)"
keep api.key || put api.key "sk_$(random_hex 8).$(od -An -vN 32 -tu1 /dev/urandom | tr -s ' \n' '\n' | awk '
    BEGIN { alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" }
    NF { bits = bits * 256 + $1; count += 8; while (count >= 6) { count -= 6; unit = 2 ^ count; digit = int(bits / unit); bits -= digit * unit; printf "%s", substr(alphabet, digit + 1, 1) } }
    END { printf "%s", substr(alphabet, bits * 2 ^ (6 - count) + 1, 1) }')"

# The two files hold the same password, so they are made together.
if ! { keep redis.url && keep valkey.acl; }; then
    [ ! -s "$folder/redis.url" ] || { echo "$folder/redis.url exists without valkey.acl: remove it to make both anew" >&2; exit 1; }
    password=$(random_hex 32)
    digest=$(printf %s "$password" | sha256sum | cut -d' ' -f1)
    # Sandlot's user: its own keys and channels and RQ's, no server administration but reading the server's state.
    put valkey.acl "user default on nopass nocommands +ping
user sandlot on #$digest ~sandlot:* ~rq:* &sandlot:* &rq:* +@all -@admin -@dangerous +info +client|list +config|get"
    put redis.url "redis://sandlot:$password@valkey:6379/0"
fi
