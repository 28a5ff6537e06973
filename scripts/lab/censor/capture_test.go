package censor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"busel/scripts/lab/censor/rule"
)

// tshark reads what was captured, and the interface says what was done.
func TestCapture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pcapng")
	c, err := StartCapture(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	udp := []byte{0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 203, 0, 113, 2, 192, 0, 2, 10, 0x30, 0x39, 0, 9, 0, 9, 0, 0, 'x'}
	for d := range rule.Direction(2) {
		for what := range events {
			c.record(d, what, udp)
		}
	}
	if missed, err := c.Close(); missed != 0 || err != nil {
		t.Fatal(missed, err)
	}
	c.record(rule.Up, hasPassed, udp) // ignored
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("tshark is not installed")
	}
	out, err := exec.Command("tshark", "-r", path, "-T", "fields",
		"-e", "frame.interface_name", "-e", "ip.src", "-e", "udp.dstport", "-e", "frame.len").CombinedOutput()
	if err != nil {
		t.Fatalf("tshark: %v: %s", err, out)
	}
	for _, name := range interfaceNames {
		if !strings.Contains(string(out), name+"\t203.0.113.2\t9\t29\n") {
			t.Errorf("no packet on interface %s: %s", name, out)
		}
	}
}

func TestCaptureLimit(t *testing.T) {
	const limit = 100_000
	path := filepath.Join(t.TempDir(), "x.pcapng")
	c, err := StartCapture(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c.record(rule.Down, wasLost, make([]byte, 1499))
	}
	missed, err := c.Close()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > limit || info.Size() < limit-1600 || missed != uint64(100-(limit-len(captureHeader()))/blockSize(1499)) {
		t.Errorf("%d bytes, %d missed", info.Size(), missed)
	}
}
