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
// Of these the client can choose the first without waiting for anybody, and no burst is that of a
// handshake's beginning if it is between 417 and 516 bytes, or from 3009 on: the
// sizes of a browser's GET with its fields, and of a POST. So a client makes bursts longer that are
// neither, up to the one or the other.
//
// That is no more than it says. An observer who learns what a client of ours looks like, and
// not what a browser's handshake does, has other means to begin with.
//
// Everything here is pure: no clock, no socket, no randomness.
package bursts

// Lengths in bytes, of whole TLS records with their headers. The observer takes 24 off for each
// packet; a burst of 3009 has at most 5 of them where a packet carries 700 bytes.
const (
	leastGET, mostGET = 417 + 24, 516 + 24
	leastPOST         = 3009 + 5*24
	// What is drawn: up to which length a GET is filled, so that a small record of control
	// frames may follow, and by how much a POST is longer than the least, at most.
	filledGET = mostGET - 32
	spread    = 900
)

// Small is the most that [Fill] returns for a burst that becomes like a GET.
const Small = filledGET

// Fill says how much longer a burst is to be that has so many bytes: 0 if it is good as it
// is, otherwise 2..Small for one like a GET, or as much as one like a POST lacks. draw returns a random number
// of 0..n-1.
func Fill(burst int, draw func(n int) int) int {
	switch {
	case burst >= leastPOST || burst >= leastGET && burst <= mostGET:
		return 0
	case burst < leastGET:
		least := max(leastGET, burst+2)
		return least + draw(filledGET-least+1) - burst
	}
	return max(leastPOST+draw(spread)-burst, 2)
}
