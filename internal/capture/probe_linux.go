package capture

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Of the timers of a socket the kernel tells of one (proc_net_tcp in its documentation).
const (
	resendTimer = "01" // before all others, until everything is acknowledged
	probeTimer  = "02"
)

// A receiver acknowledges within resendTime, and is asked about every resendCheck.
const (
	resendTime  = time.Second
	resendCheck = 10 * time.Millisecond
)

// probeIn is when the socket of this machine at the address sends its next keepalive
// probe, in seconds; 0 if it does not, or that cannot be told.
func probeIn(at net.Addr) float64 {
	a, ok := at.(*net.TCPAddr)
	if !ok || a.IP.To4() == nil {
		return 0
	}
	tick := time.NewTicker(resendCheck)
	defer tick.Stop()
	for range resendTime / resendCheck {
		text, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			return 0
		}
		timer, in := timerOf(string(text), a)
		switch timer {
		case probeTimer:
			return in
		case resendTimer:
			<-tick.C
		default:
			return 0
		}
	}
	return 0
}

// timerOf finds the established socket at an address of IPv4 in the kernel's table: which
// timer it has, and in how many seconds that is due.
func timerOf(table string, at *net.TCPAddr) (timer string, in float64) {
	ip := slices.Clone(at.IP.To4())
	slices.Reverse(ip)
	local := fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(ip)), at.Port)
	for line := range strings.Lines(table) {
		w := strings.Fields(line)
		if len(w) < 6 || w[1] != local || w[3] != "01" { // established
			continue
		}
		timer, when, _ := strings.Cut(w[5], ":")
		hundredths, err := strconv.ParseInt(when, 16, 64)
		if err != nil {
			return "", 0
		}
		return timer, float64(hundredths) / 100
	}
	return "", 0
}
