#!/bin/bash
# The installer in a Debian that systemd booted, and a client that uses the relay.
# The network is loopback alone.
set -uo pipefail
exec >/trial/log 2>&1
trap 'systemctl poweroff --force' EXIT
cd /

fail() { journalctl -u busel-relay --no-pager -o cat | tail -n 20; echo "FAIL: $*"; exit 1; }
state() { find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /trial -o -path /tmp -o -path /var/tmp -o -path /var/log -o -path /var/lib/systemd -o -path /dev \) -prune -o ! -name '*-' ! -path /etc/.pwd.lock -printf '%p %M %u %l\n' | sort; }
# until SECONDS COMMAND...
until_ok() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
  return 0
}

ip link set lo up
ip addr add 198.51.100.7/32 dev lo
systemctl start systemd-journald
state >/trial/before

# A container has a tcp_wmem of its own; net.core it may only look at.
kernel() { cat /proc/sys/net/ipv4/tcp_wmem /proc/sys/net/core/[rw]mem_max 2>/dev/null; }
echo '4096 16384 4194304' >/proc/sys/net/ipv4/tcp_wmem
kernel >/trial/kernel
wmem() { tr -s '\t' ' ' </proc/sys/net/ipv4/tcp_wmem; }
script -qec '/trial/release/install-relay -address 198.51.100.7:443' /trial/install.out </dev/null || fail "not installed"
grep -q '█' /trial/install.out || fail "no QR code on a terminal"
systemctl is-active --quiet busel-relay || fail "the service does not run"
systemctl is-enabled --quiet busel-relay || fail "the service is not enabled"

[ "$(wmem)" = '4096 16384 16777216' ] || fail "TCP may keep $(wmem)"
! grep -q 'TCP keep at most' /trial/install.out || fail "check does not see that"
systemctl restart systemd-sysctl systemd-modules-load || fail "the settings for the next boot fail"
[ "$(wmem)" = '4096 16384 16777216' ] || fail "at the next boot TCP may keep $(wmem)"

pid=$(systemctl show -p MainPID --value busel-relay)
grep -q "^Uid:[[:space:]]*$(id -u busel)[[:space:]]" /proc/$pid/status || fail "it runs as another user"
grep -q '^CapEff:.*0000000000000400$' /proc/$pid/status || fail "capabilities: $(grep CapEff /proc/$pid/status)"
grep -q '^Seccomp:.*2$' /proc/$pid/status || fail "no filter of system calls"
# A container may have a lower limit, which systemd then takes.
most=$(ulimit -Hn) want=65536
[ "$most" = unlimited ] || [ "$most" -ge 65536 ] || want=$most
grep -q "^Max open files *$want " /proc/$pid/limits || fail "limit of open files: $(grep files /proc/$pid/limits)"
# It cannot write beside its own directory, and does not see homes.
nsenter -t $pid -m -S "$(id -u busel)" -- touch /var/lib/other 2>/dev/null && fail "writes elsewhere"
nsenter -t $pid -m -- ls /root >/dev/null 2>&1 && [ -n "$(nsenter -t $pid -m -- ls -A /root)" ] && fail "sees /root"

# A client that uses it, for an origin on loopback.
sed -i 's|^allow = .*|allow = ["127.0.0.0/8"]|' /etc/busel/relayd.toml
systemctl restart busel-relay || fail "does not restart"
/trial/release/origin -listen 127.0.0.1:8088 >/dev/null &
relayd invite -name bert | /trial/release/client add -dir /trial/client - || fail "the invite is not taken"
/trial/release/client run -dir /trial/client >/trial/client.log 2>&1 &
client=$!
page() { curl -sS --max-time 5 --proxy socks5h://127.0.0.1:1080 http://127.0.0.1:8088/ | grep 'You can read this'; }
until_ok 30 page || { cat /trial/client.log; fail "no page through the relay"; }

# A stranger sees the site, over TCP and with a name that is not its own.
curl -sk --max-time 5 https://198.51.100.7/ | grep -qi '<html' || fail "no cover site"

# It comes back when it is killed, and the client with it.
kill -KILL "$(systemctl show -p MainPID --value busel-relay)"
until_ok 30 systemctl is-active busel-relay || fail "not started again"
until_ok 30 page || fail "no page after the restart"
relayd status || fail "no status"

# An upgrade, while the client is there.
/trial/release/install-relay || fail "not upgraded"
systemctl is-active --quiet busel-relay || fail "it does not run after the upgrade"
[ "$(systemctl show -p MainPID --value busel-relay)" != "$pid" ] || fail "the old program runs"
until_ok 30 page || fail "no page after the upgrade"
systemctl show -p NRestarts,MainPID,StatusText busel-relay
relayd check; echo "check: $?"

# An upgrade leaves what is higher, and check says what is low.
echo '4096 16384 33554432' >/proc/sys/net/ipv4/tcp_wmem
/trial/release/install-relay >/trial/out || fail "not upgraded again"
[ "$(wmem)" = '4096 16384 33554432' ] || fail "an upgrade has lowered what TCP may keep to $(wmem)"
echo '4096 16384 262144' >/proc/sys/net/ipv4/tcp_wmem
relayd check >/trial/out
grep 'TCP keep at most 256 kB' /trial/out || fail "not said that buffers are small"
/trial/release/install-relay >/trial/out || fail "not upgraded once more"
[ "$(wmem)" = '4096 16384 16777216' ] || fail "an upgrade leaves TCP $(wmem)"
kill $client

# The settings' fault is said once; it is no reason to try for ever.
cp /etc/busel/relayd.toml /trial/good.toml
echo 'nonsense = "x"' >>/etc/busel/relayd.toml
systemctl restart busel-relay
until_ok 20 systemctl is-failed busel-relay || fail "wrong settings do not fail"
/trial/release/install-relay >/trial/out 2>&1 && fail "an upgrade with wrong settings succeeds"
grep -q 'does not start' /trial/out || fail "not said that it does not start"
cp /trial/good.toml /etc/busel/relayd.toml
systemctl restart busel-relay || fail "does not start with its settings put right"
journalctl -u busel-relay --no-pager -o cat

/usr/local/lib/busel/install-relay -remove -yes || fail "not removed"
state >/trial/after
kernel | diff /trial/kernel - || fail "-remove left the kernel's buffers"
diff /trial/before /trial/after || fail "-remove left something"
! systemctl cat busel-relay >/dev/null 2>&1 || fail "systemd still has the unit"
! grep -qx relayd /proc/[0-9]*/comm || fail "it still runs"
echo whole
