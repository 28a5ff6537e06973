package records

// Lengths of short records with HTTP/2, as in their headers: 17 bytes of TLS's, 9 of a frame's,
// and what is in it.
const (
	lenAck    = 26 // SETTINGS ACK, empty DATA
	lenUpdate = 30 // WINDOW_UPDATE, RST_STREAM
	lenPing   = 34
	// leastRequest is about the shortest request of a browser whose fields the server has in
	// its table, leastAnswer about the shortest answer without a body: nginx's 304 has about 100.
	leastRequest, spreadRequest = 62, 48
	leastAnswer, spreadAnswer   = 92, 64
	// leastPadding is the shortest PADDING frame.
	leastPadding = 2
)

// Request says how long a browser's record is to be that has n bytes: as long as one of the few
// short ones that there are with HTTP/2, or as a request. Others, such as of 33 bytes, no browser ever
// sends: one of them tells the visitor. The result is n or at least 2 more. draw returns a random
// number of 0..k-1.
func Request(n int, draw func(k int) int) int {
	for _, size := range []int{lenAck, lenUpdate, lenPing} {
		if n == size || n <= size-leastPadding {
			return size
		}
	}
	return atLeast(n, leastRequest, spreadRequest, draw)
}

// Answer says how long a server's record is to be that has n bytes: it says nothing
// short without being asked, as far as HTTP goes.
func Answer(n int, draw func(k int) int) int { return atLeast(n, leastAnswer, spreadAnswer, draw) }

func atLeast(n, least, spread int, draw func(k int) int) int {
	if n >= least {
		return n
	}
	return max(least+draw(spread), n+leastPadding)
}
