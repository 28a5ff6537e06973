#!/bin/bash
# The installer in an overlay over this machine, without systemd running and without
# a network. RELEASE is the release's folder; PORT a port that is taken.
set -euo pipefail
cd /

fail() { echo "FAIL: $*"; exit 1; }
state() { find /etc /usr/local/bin /usr/local/lib /usr/local/sbin /var/lib -xdev ! -name '*-' ! -path '/etc/.pwd.lock' -printf '%p %M %u %l\n' | sort; }
nothing() { state | diff /tmp/before - || fail "$1 left something"; }
# refused STATUS TEXT COMMAND...
refused() {
  local want=$1 text=$2 status=0; shift 2
  "$@" >/tmp/out 2>&1 </dev/null || status=$?
  [ $status = "$want" ] || { cat /tmp/out; fail "$*: status $status, want $want"; }
  grep -q -- "$text" /tmp/out || { cat /tmp/out; fail "$*: no \"$text\""; }
}

install=$RELEASE/install-relay
state >/tmp/before

refused 1 'no relay is installed here' "$install" -remove
refused 2 'address is needed' "$install"
refused 2 'no address and port' "$install" -address 198.51.100.7
refused 2 'no flag -adress' "$install" -adress 198.51.100.7:443
refused 1 "another program has tcp port $PORT" "$install" -address "198.51.100.7:$PORT"
refused 1 'no release for Linux' "$install" -from /etc -address 198.51.100.7:443
refused 1 'what was installed so far is undone' "$install" -address 198.51.100.7:443 -cover builtin -cover-name 'Not a name'
cp -r "$RELEASE" /tmp/damaged
printf x >>/tmp/damaged/busel-relay.service
refused 1 'is damaged' "$install" -from /tmp/damaged -address 198.51.100.7:443
mv /etc/os-release /tmp/os-release
echo 'ID=fedora' >/etc/os-release
refused 1 'no Debian or Ubuntu' "$install" -address 198.51.100.7:443
rm /etc/os-release
mv /tmp/os-release /etc/os-release
nothing "an installation that was refused"

# From an archive, as it is downloaded.
mkdir /tmp/archive
tar -C "$(dirname "$RELEASE")" -czf /tmp/archive/release.tar.gz "$(basename "$RELEASE")"
"$install" -from /tmp/archive/release.tar.gz -address 198.51.100.7:443 --cover builtin >/tmp/out 2>&1 </dev/null || { cat /tmp/out; fail "not installed"; }
grep -q '^busel:' /tmp/out || fail "no invite"
grep -q 'at the next boot' /tmp/out || fail "not said when it starts"
[ -L /etc/systemd/system/multi-user.target.wants/busel-relay.service ] || fail "not enabled"
[ -f /etc/sysctl.d/10-busel-relay.conf ] || fail "no settings for the kernel"
grep -qx tcp_bbr /etc/modules-load.d/busel-relay.conf || fail "BBR is not loaded at the next boot"
[ "$(stat -c '%U %a' /var/lib/busel)" = "busel 700" ] || fail "the directory is not the user's alone"
[ -z "$(find /var/lib/busel ! -user busel)" ] || fail "files of another user"

# Root's commands find the relay, and what they write is the service's.
relayd invite -name anna >/dev/null || fail "no further invite"
[ -z "$(find /var/lib/busel ! -user busel)" ] || fail "root's command left a file of root's"

# Again: refused with an address, an upgrade without.
refused 1 'installed here already' "$install" -address 198.51.100.7:443
sum=$(sha256sum /var/lib/busel/relay.key /var/lib/busel/relayd.toml)
printf old >/usr/local/bin/relayd
/usr/local/lib/busel/install-relay -from "$RELEASE" >/tmp/out 2>&1 || { cat /tmp/out; fail "not upgraded"; }
[ "$sum" = "$(sha256sum /var/lib/busel/relay.key /var/lib/busel/relayd.toml)" ] || fail "the upgrade changed keys or settings"
relayd -version >/dev/null || fail "the program was not replaced"

# A copy of its directory makes the same relay again.
cp -r /var/lib/busel /tmp/copy
/usr/local/lib/busel/install-relay -remove </dev/null >/dev/null || fail "not removed"
nothing "-remove"
cp -r /tmp/copy /var/lib/busel
"$install" >/tmp/out 2>&1 </dev/null || { cat /tmp/out; fail "not installed around a copy"; }
[ "$sum" = "$(sha256sum /var/lib/busel/relay.key /var/lib/busel/relayd.toml)" ] || fail "the copy was changed"
[ -z "$(find /var/lib/busel ! -user busel)" ] || fail "the copy is not the service's"
relayd invite -name bert >/dev/null || fail "no invite from the copy"
"$install" -remove </dev/null >/dev/null || fail "not removed again"
nothing "the second -remove"

# In front of a web server that is not up yet, and with a folder to show.
"$install" -address 198.51.100.7:443 -cover 127.0.0.1:9 -cover-name news.example.org >/tmp/out 2>&1 </dev/null || { cat /tmp/out; fail "not installed without the web server"; }
grep -q 'when the web server answers' /tmp/out || fail "not said what is missing"
grep -q 'listen 127.0.0.1:9 ssl' /etc/busel/cover-nginx.conf || fail "no settings for nginx"
grep -q 'https://news.example.org {' /etc/busel/cover-caddy.conf || fail "no settings for Caddy"
"$install" -remove </dev/null >/dev/null || fail "not removed"
mv /etc/os-release /tmp/os-release
printf 'NAME="Ubuntu"\nVERSION_ID="22.04"\nID=ubuntu\nID_LIKE=debian\n' >/etc/os-release
"$install" -address 198.51.100.7:443 -cover builtin -cover-name news.example.org -acme letsencrypt -email a@example.org -site /srv >/tmp/out 2>&1 </dev/null || { cat /tmp/out; fail "not installed with an authority"; }
grep -q '^directory = "https://acme-v02.api.letsencrypt.org/directory"$' /etc/busel/relayd.toml || fail "no authority in the settings"
grep -q '^site = "/srv"$' /etc/busel/relayd.toml || fail "no folder in the settings"
grep -q 'once news.example.org has its certificate' /tmp/out || fail "not said when the invite works"
"$install" -remove </dev/null >/dev/null || fail "not removed"
rm /etc/os-release
mv /tmp/os-release /etc/os-release
nothing "the last -remove"
echo whole
