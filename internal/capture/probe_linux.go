package capture

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// probeIn is when the socket of this machine at the address sends its next keepalive
// probe, in seconds; 0 if it does not, or that cannot be told (proc_net_tcp in the kernel's
// documentation: timer 2, in hundredths of a second).
func probeIn(at net.Addr) float64 {
	a, ok := at.(*net.TCPAddr)
	text, err := os.ReadFile("/proc/net/tcp")
	if !ok || err != nil || a.IP.To4() == nil {
		return 0
	}
	ip := slices.Clone(a.IP.To4())
	slices.Reverse(ip)
	local := fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(ip)), a.Port)
	for line := range strings.Lines(string(text)) {
		w := strings.Fields(line)
		if len(w) < 6 || w[1] != local || w[3] != "01" { // established
			continue
		}
		timer, when, _ := strings.Cut(w[5], ":")
		n, err := strconv.ParseInt(when, 16, 64)
		if timer != "02" || err != nil {
			return 0
		}
		return float64(n) / 100
	}
	return 0
}
