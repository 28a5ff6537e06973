//go:build linux

package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// release lays out the programs as scripts/release does.
func release(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "release")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var sums strings.Builder
	for name, from := range map[string]string{
		"relayd": bin, "client": bin, "origin": bin, "install-relay": "../../scripts", "busel-relay.service": "../../scripts", "busel-relay.sysctl": "../../scripts",
	} {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), name)
	}
	if err := os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(sums.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The unit gives a relay what it needs and little else.
func TestUnitIsHardened(t *testing.T) {
	need(t, "systemd-analyze")
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", "../../scripts/busel-relay.service").CombinedOutput()
	if err != nil { // above 2.0
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "Overall exposure level") {
		t.Errorf("no judgment:\n%s", out)
	}
}

// The installer's refusals, an installation from an archive, an upgrade and
// -remove, in an overlay over this machine: nothing of it is touched.
func TestInstallHere(t *testing.T) {
	need(t, "unshare", "systemctl", "setpriv", "useradd")
	if os.Geteuid() != 0 {
		t.Skip("an installation needs root")
	}
	if _, err := os.Stat("/var/lib/busel"); err == nil {
		t.Skip("a relay is installed on this machine")
	}
	dir, err := os.MkdirTemp("/dev/shm", "busel-install-") // no overlay over an overlay
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"up", "work", "root", "release"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "release", "busel"), os.DirFS(release(t))); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/install-here.sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "release", "trial"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	// The inner shell has a network of its own, in which one port is taken.
	cmd := exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "sh", "-ec", `
cd "$1"
mount -t overlay overlay -o lowerdir=/,upperdir=up,workdir=work root || exit 77
mount -t proc proc root/proc
mount --bind /dev root/dev
mount -t tmpfs tmpfs root/tmp
mkdir root/tmp/release
mount --bind release root/tmp/release
mount -t tmpfs tmpfs root/run
ip link set lo up
python3 -c 'import socket,time; s=socket.create_server(("127.0.0.1", 8081)); print(flush=True); time.sleep(100)' >root/tmp/taken &
while ! [ -s root/tmp/taken ]; do :; done
RELEASE=/tmp/release/busel PORT=8081 chroot root /tmp/release/trial`, "sh", dir)
	cmd.Env = append(os.Environ(), "TMPDIR=/tmp")
	out, err := cmd.CombinedOutput()
	if e, ok := err.(*exec.ExitError); ok && e.ExitCode() == 77 {
		t.Skipf("this machine mounts no overlay over itself: %s", out)
	}
	if err != nil || !strings.HasSuffix(string(out), "whole\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What install-relay does to the kernel, which is a folder here: it raises what is low,
// number by number, leaves to others what their files set, and takes back what it did.
func TestTune(t *testing.T) {
	need(t, "bash")
	script, err := os.ReadFile("../../scripts/install-relay")
	if err != nil {
		t.Fatal(err)
	}
	_, kernel, _ := strings.Cut(string(script), "# --- the kernel\n")
	kernel, _, _ = strings.Cut(kernel, "# --- undoing\n")
	ours, err := os.ReadFile("../../scripts/busel-relay.sysctl")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		wmem   string
		others string // what further files say, which come later
		want   string
		left   string // in the end, if not as before
	}{
		{"the kernel's own", "4096\t16384\t4194304", "", "4096 16384 16777216", ""},
		{"a small machine's", "4096 16384 262144", "", "4096 16384 16777216", ""},
		{"as wanted", "4096 16384 16777216", "", "4096 16384 16777216", ""},
		{"a larger end", "4096 16384 33554432", "", "4096 16384 33554432", ""},
		{"a larger middle", "4096 131072 4194304", "", "4096 131072 16777216", ""},
		{"a larger beginning", "8192 16384 4194304", "", "8192 16384 16777216", ""},
		{"a smaller middle", "4096 8192 33554432", "", "4096 16384 33554432", ""},
		{"the owner's file", "4096 16384 8388608", "net.ipv4.tcp_wmem = 4096 16384 8388608", "4096 16384 8388608", ""},
		{"the owner's file in another hand", "4096 16384 8388608", "\t-net/ipv4/tcp_wmem=4096\t16384  8388608 ", "4096 16384 8388608", ""},
		{"the owner's other file", "4096 16384 4194304", "net.ipv4.tcp_rmem = 1 2 3\n# net.ipv4.tcp_wmem = 1 2 3", "4096 16384 16777216", ""},
		{"changed since", "4096 16384 4194304", "", "4096 16384 16777216", "4096 16384 5000000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			wmem := filepath.Join(dir, "net/ipv4/tcp_wmem")
			put := func(name, text string) {
				t.Helper()
				name = filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			put("net/ipv4/tcp_wmem", tt.wmem)
			put("net/core/rmem_max", "212992")
			put("etc/10-busel-relay.conf", string(ours))
			put("lib/98-masked.conf", "net.ipv4.tcp_wmem = 1 2 3")
			put("etc/98-masked.conf", "")
			if err := os.Symlink("/nowhere", filepath.Join(dir, "etc/99-sysctl.conf")); err != nil {
				t.Fatal(err)
			}
			put("lib/99-zz.conf", tt.others)
			do := func(what string) {
				t.Helper()
				c := exec.Command("bash", "-euo", "pipefail", "-c", kernel+`
sys=$1 sysctl_file=$1/etc/10-busel-relay.conf before=$1/before
sysctl_dirs=("$1/etc" "$1/none" "$1/lib")
modprobe() { :; }
`+what, "install-relay", dir)
				if out, err := c.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", what, err, out)
				}
			}
			is := func(want string) {
				t.Helper()
				got, err := os.ReadFile(wmem)
				if err != nil || strings.Join(strings.Fields(string(got)), " ") != strings.Join(strings.Fields(want), " ") {
					t.Errorf("tcp_wmem is %q (%v), want %q", got, err, want)
				}
			}
			do("tune")
			is(tt.want)
			do("tune") // an upgrade
			is(tt.want)
			if tt.left != "" {
				put("net/ipv4/tcp_wmem", tt.left)
			} else {
				tt.left = tt.wmem
			}
			do("untune")
			is(tt.left)
			if got, err := os.ReadFile(filepath.Join(dir, "net/core/rmem_max")); err != nil || strings.TrimSpace(string(got)) != "212992" {
				t.Errorf("rmem_max is %q in the end, %v", got, err)
			}
		})
	}
}

// A fresh Debian, booted in a container without a network: the installer makes a
// relay that a client uses, and -remove leaves nothing. It costs a minute and more,
// and Debian's packages, so it runs when asked: BUSEL_E2E_DEBIAN is a folder in
// which debootstrap's root is kept for the next time.
func TestInstallDebian(t *testing.T) {
	home := os.Getenv("BUSEL_E2E_DEBIAN")
	if home == "" {
		t.Skip("BUSEL_E2E_DEBIAN is not set")
	}
	for _, p := range []string{"debootstrap", "systemd-nspawn"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is not installed: apt-get install debootstrap systemd-container", p)
		}
	}
	root := filepath.Join(home, "root")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/curl")); err != nil {
		if out, err := exec.Command("debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,iproute2,curl", "bookworm", root, "http://deb.debian.org/debian").CombinedOutput(); err != nil {
			t.Fatalf("debootstrap: %v\n%s", err, out)
		}
	}
	trial := t.TempDir()
	if err := os.CopyFS(filepath.Join(trial, "release"), os.DirFS(release(t))); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"trial.service": "[Unit]\nAfter=multi-user.target\n[Service]\nExecStart=/trial/run\n",
		"run":           "",
	} {
		if text == "" {
			data, err := os.ReadFile("testdata/install-debian.sh")
			if err != nil {
				t.Fatal(err)
			}
			text = string(data)
		}
		if err := os.WriteFile(filepath.Join(trial, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	boot := exec.Command("timeout", "300", "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network",
		"--directory="+root, "--volatile=overlay", "--bind="+trial+":/trial",
		"--bind-ro="+filepath.Join(trial, "trial.service")+":/etc/systemd/system/trial.service",
		"--boot", "systemd.wants=trial.service", "systemd.mask=console-getty.service")
	console, err := boot.CombinedOutput()
	log, _ := os.ReadFile(filepath.Join(trial, "log"))
	if err != nil || !strings.HasSuffix(string(log), "whole\n") {
		t.Fatalf("%v\n%s\n%s", err, console, log)
	}
	t.Logf("booted and done in %v\n%s", time.Since(begin), log)
}
