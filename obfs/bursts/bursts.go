// Package bursts keeps a TLS handshake that goes through a tunnel from showing in the
// sizes of what goes to and fro outside.
//
// # Concept
//
// A burst is what one end sends until the other one speaks. Programs in a tunnel say TLS
// themselves, and the four bursts of such a handshake (ClientHello; the server's
// flight; Finished, mostly with a request; the answer) have sizes that an observer finds in any tunnel
// that only encrypts: Xue et al., "Fingerprinting Obfuscated Proxy Traffic with
// Encapsulated TLS Handshakes", USENIX Security 2024, row T1 of the threats. nDPI's open version
// of it takes four bursts for a handshake that are within 3 to 3.5 standard deviations
// of what it has measured with browsers:
//
//	TLS 1.2, Firefox       213 ± 58   4515 ± 1292   108 ± 36     308 ± 132
//	TLS 1.3, Firefox       641 ± 180  4649 ± 1201   448 ± 987   1094 ± 3403   first burst at least 517
//	Chromium, post-quantum 1850 ± 386 4903 ± 1331   785 ± 1287  1051 ± 3144
//
// Two of these the client says, and can make longer without waiting for anybody:
//
//   - The first one. From 3009 bytes on no burst is that of a handshake's beginning, and between
//     417 and 516 none is either. Below 417 only that of TLS 1.2 is.
//   - The third one. That of TLS 1.2 has at most 234 bytes, and fewer if the server's flight
//     was far from the mean.
//
// So a client makes those bursts longer that begin like TLS 1.3, to the size of a browser's POST, and
// those that may be the third ones of TLS 1.2, to that of a GET. All others stay as they are:
// if all were alike, that would show, too.
//
// That is no more than it says. An observer who learns what a client of ours looks like, and
// not what a browser's handshake does, has other means to begin with.
//
// Everything here is pure: no clock, no socket, no randomness.
package bursts

import "math"

// Lengths in bytes, of whole TLS records with their headers. The observer takes 24 off for each
// packet; a burst of 3009 has at most 5 of them where a packet carries 700 bytes.
const (
	mostFirst = 516 + 24 // of a burst that begins no handshake of TLS 1.3
	leastPOST = 3009 + 5*24
	// What is drawn: by how much a burst is longer than the least, at most.
	spreadGET, spreadPOST = 120, 900
)

// The model of TLS 1.2. The bound is half a deviation wider than the observer's: what
// passes between us and him is not all in the order in which we see it.
const (
	flightMean, flightDeviation = 4515, 1292
	thirdMean, thirdDeviation   = 108, 36
	bound                       = 4
)

// Fill says how much longer a burst is to be that has so many bytes, if since the one before it
// the relay's end said heard: 0 if it is good as it is, otherwise 2 or more. draw returns a random
// number of 0..n-1.
func Fill(heard, burst int, draw func(n int) int) int {
	least, spread := third(heard), spreadGET
	if burst > mostFirst {
		least, spread = leastPOST, spreadPOST
	}
	if burst >= least {
		return 0
	}
	return max(least+draw(spread)-burst, 2)
}

// Small is the most that [Fill] returns for a burst that may be a third one.
const Small = thirdMean + bound*thirdDeviation + 24 + spreadGET

// third is how long a burst must be in order not to be the third one of TLS 1.2. How long the
// client's burst before it was does not count: where the observer is, two may be one, or one two.
func third(heard int) int {
	// Some of what we heard he may have seen before or after: half or double.
	flight := min(max(flightMean, heard/2), 2*heard)
	far := float64(flight-flightMean) / flightDeviation
	left := bound*bound - far*far
	if left <= 0 {
		return 0
	}
	return thirdMean + 24 + int(thirdDeviation*math.Sqrt(left))
}
