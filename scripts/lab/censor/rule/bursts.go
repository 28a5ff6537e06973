package rule

import (
	"cmp"
	"math"

	"busel/scripts/lab/censor/packet"
)

// Bursts follows the sizes of what goes to and fro inside a TLS connection and
// finds the TLS handshake in it: row T1 in the open version of nDPI.
//
// Counting begins behind the client's ChangeCipherSpec: the packet that it
// begins and all before are skipped, and what the server sends before the
// client's next packet (nDPI gives up there; a server's tickets would blind
// it). A packet counts for its payload less the overhead of a record. Windows
// are four bursts, client's first; the next one begins two bursts later.
// The zero value is ready.
type Bursts struct {
	// Most is how many packets of a flow are followed; 0 stands for nDPI's 25.
	Most int

	started bool // the ChangeCipherSpec was seen
	done    bool
	found   bool
	packets int
	sizes   [5]int // of the bursts of the window and the one behind it
	counts  [5]int // of packets
	at      int    // the burst that is going on; -1 before the first
}

const (
	recordChangeCipher = 0x14
	// recordOverhead is what nDPI takes off each packet, in bytes.
	recordOverhead = 24
	// maxBurstPackets is how many packets nDPI follows a flow for by default.
	maxBurstPackets = 25
	// maxFirstPackets is how many packets a ClientHello may be split into.
	maxFirstPackets = 3
	// leastTLS13 is the shortest first burst for the model of TLS 1.3.
	leastTLS13 = 517
)

// A model is a distribution of the sizes of four bursts, in bytes.
//
// The means and bounds are those of row T1. It gives no covariance; the
// deviations here were derived from the diagonal of the inverse covariance
// that nDPI has (one over its square root), and the four sizes are taken as
// independent: the partial correlations there are at most 0.12.
type model struct {
	mean, deviation [4]float64
	bound           float64
	least           int // of the first burst
}

var models = []model{
	{[4]float64{213, 4515, 108, 308}, [4]float64{58, 1292, 36, 132}, 3.5, 0},              // TLS 1.2, Firefox
	{[4]float64{641, 4649, 448, 1094}, [4]float64{180, 1201, 987, 3403}, 3.0, leastTLS13}, // TLS 1.3, Firefox
	{[4]float64{1850, 4903, 785, 1051}, [4]float64{386, 1331, 1287, 3144}, 3.0, 0},        // Chrome, post-quantum
}

// distance is Mahalanobis's, with independent dimensions.
func (m *model) distance(sizes [4]int) float64 {
	sum := 0.0
	for i, size := range sizes {
		d := (float64(size) - m.mean[i]) / m.deviation[i]
		sum += d * d
	}
	return math.Sqrt(sum)
}

// looksLikeHandshake judges a window.
func looksLikeHandshake(sizes [4]int) bool {
	for _, m := range models {
		if sizes[0] >= m.least && m.distance(sizes) < m.bound {
			return true
		}
	}
	return false
}

// Found reports whether there was a handshake.
func (b *Bursts) Found() bool { return b.found }

// Add takes a packet of the connection.
func (b *Bursts) Add(d Direction, p *packet.Packet) {
	if b.done || len(p.Payload) == 0 {
		return
	}
	if !b.started {
		b.started = d == Up && p.Payload[0] == recordChangeCipher
		b.at = -1
		return
	}
	if b.at < 0 && d == Down {
		return
	}
	if b.packets++; b.packets > cmp.Or(b.Most, maxBurstPackets) || len(p.Payload) < recordOverhead {
		b.done = true
		return
	}
	if b.at < 0 || (b.at%2 == 0) != (d == Up) {
		b.at++
	}
	if b.at == 4 { // the client speaks again: the window is complete
		if b.counts[0] <= maxFirstPackets && looksLikeHandshake([4]int(b.sizes[:4])) {
			b.done, b.found = true, true
			return
		}
		b.sizes = [5]int{b.sizes[2], b.sizes[3]}
		b.counts = [5]int{b.counts[2], b.counts[3]}
		b.at = 2
	}
	b.sizes[b.at] += len(p.Payload) - recordOverhead
	b.counts[b.at]++
}
