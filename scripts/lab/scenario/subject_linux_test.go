package scenario

import (
	"os"
	"strings"
	"testing"
)

// The lab's relays have the kernel's settings of those that were installed.
func TestSettingsAreTheInstalled(t *testing.T) {
	b, err := os.ReadFile("../../busel-relay.sysctl")
	if err != nil {
		t.Fatal(err)
	}
	if want := "net.ipv4.tcp_wmem = " + sendBuffers + "\n"; !strings.Contains(string(b), want) {
		t.Errorf("install-relay sets other send buffers than %q", sendBuffers)
	}
}
