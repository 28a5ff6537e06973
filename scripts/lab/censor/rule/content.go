package rule

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
	"strings"

	"busel/scripts/lab/censor/packet"
)

// app is a set of application protocols.
type app uint8

const (
	appTLS app = 1 << iota
	appQUIC
	appHTTP
	appDNS
	appSSH
	appEncrypted // looks like nothing: row C1
	appTLSInTLS  // row T1
	appUnknown   // none of TLS, QUIC, HTTP, DNS and SSH
)

// appNames are the words for the bits of app, in their order.
var appNames = []string{"tls", "quic", "http", "dns", "ssh", "fully-encrypted", "tls-in-tls", "unknown"}

func appSet(names []string) app {
	var set app
	for _, name := range names {
		set |= 1 << slices.Index(appNames, name)
	}
	return set
}

// pieces says what an observer puts together; as a number it is the index of
// its view of a flow.
type pieces uint8

const (
	joinTCP pieces = 1 << iota
	joinTLS
	joinQUIC
	views // how many there are
)

func piecesSet(names []string) pieces {
	var set pieces
	for _, name := range names {
		set |= 1 << slices.Index(reassembled, name)
	}
	return set
}

// dnsPort is where queries are looked for.
const dnsPort = 53

// maxTries bounds the data packets of a client that are looked into. Row C4:
// boxes that put nothing together look at each packet for itself.
const maxTries = 10

// A view is what one kind of observer has read in a flow.
type view struct {
	settled bool // nothing more will become known
	app     app
	sni     string
	host    string
	dns     string
	ja4     string
	tries   int
}

// stream looks at the bytes of a client over TCP: all from the first on if they
// are joined, else those of one packet.
func (v *view) stream(data []byte, join pieces, port uint16, full bool) {
	if len(data) == 0 {
		return
	}
	v.tries++
	done := true
	switch {
	case packet.LooksLikeTLS(data):
		v.app |= appTLS
		done = v.hello(packet.Handshake(data, join&joinTLS != 0))
	case port == dnsPort:
		done = v.dnsStream(data)
	case len(data) >= 4 && string(data[:4]) == "SSH-":
		v.app |= appSSH
	default:
		r, err := packet.ParseRequest(data)
		if packet.LooksLikeHTTP(data) {
			v.app |= appHTTP
		}
		v.host = r.Host
		done = !errors.Is(err, packet.ErrMore)
	}
	if join&joinTCP == 0 {
		done = v.tries >= maxTries || v.sni != "" || v.host != ""
	} else {
		done = done || full
	}
	if v.app == 0 && (done || join&joinTCP == 0) {
		v.app = appUnknown
	}
	v.settled = done
}

// hello takes what is known of a ClientHello and reports whether no more will
// come.
func (v *view) hello(message []byte, err error) bool {
	h, parse := packet.ParseHello(message)
	if h != nil && err == nil || errors.Is(err, packet.ErrMore) && h != nil {
		v.sni = h.SNI
		v.ja4 = h.JA4(v.app&appQUIC != 0)
	}
	if err != nil {
		return !errors.Is(err, packet.ErrMore)
	}
	return !errors.Is(parse, packet.ErrMore)
}

// dnsStream reads the first query of a DNS connection (RFC 7766).
func (v *view) dnsStream(data []byte) bool {
	if len(data) < 2 {
		return false
	}
	length := int(binary.BigEndian.Uint16(data))
	if len(data)-2 < length {
		return false
	}
	q, err := packet.ParseQuestion(data[2 : 2+length])
	if err == nil {
		v.app |= appDNS
		v.dns = q.Name
	}
	return true
}

// datagram looks at a datagram of a client.
func (v *view) datagram(join pieces, port uint16, data []byte, initials *initials) {
	v.tries++
	switch {
	case port == dnsPort:
		v.dns = ""
		if q, err := packet.ParseQuestion(data); err == nil {
			v.app, v.dns = appDNS, q.Name
		} else if v.app == 0 {
			v.app = appUnknown
		}
		return // every datagram is a query of its own
	case v.tries == 1 && !packet.LooksLikeQUIC(data):
		v.app, v.settled = appUnknown, true
		return
	}
	v.app |= appQUIC
	message, err := initials.add(v.tries, data)
	if join&joinQUIC == 0 {
		message, err = initials.Plain()
		v.hello(message, err)
		v.settled = true
		return
	}
	v.hello(message, err)
	// Junk between the Initial packets does not confuse who puts them together.
	v.settled = err == nil || v.tries >= maxTries
}

// initials decrypts each datagram once for all views.
type initials struct {
	packet.Initials
	tries   int
	message []byte
	err     error
}

func (q *initials) add(try int, data []byte) ([]byte, error) {
	if try > q.tries {
		q.tries = try
		q.message, q.err = q.Add(data)
	}
	return q.message, q.err
}

// Thresholds of row C1. The row's source is the artifact of "How the Great
// Firewall of China Detects and Blocks Fully Encrypted Traffic" (2023).
const (
	leastBits      = 3.4 // set bits per byte: at most this passes (Ex1)
	mostBits       = 4.6 // at least this passes (Ex1)
	printableStart = 6   // printable bytes at the start that pass (Ex2)
	printableRun   = 20  // more printable bytes in a row pass (Ex4)
)

// fullyEncrypted judges the first payload of a client by row C1: it is true if
// none of the exemptions Ex1 to Ex5 holds.
func fullyEncrypted(data []byte) bool {
	if len(data) == 0 {
		return false
	}
	ones, printable, run, longest, start := 0, 0, 0, 0, 0
	for i, c := range data {
		ones += bits.OnesCount8(c)
		if c < 0x20 || c > 0x7e {
			run = 0
			continue
		}
		printable++
		run++
		longest = max(longest, run)
		if start == i {
			start++
		}
	}
	perByte := float64(ones) / float64(len(data))
	switch {
	case perByte <= leastBits || perByte >= mostBits: // Ex1
	case start >= printableStart: // Ex2
	case 2*printable > len(data): // Ex3
	case longest > printableRun: // Ex4
	case exemptStart(data): // Ex5
	default:
		return true
	}
	return false
}

// exemptStart is Ex5: TLS and HTTP.
func exemptStart(data []byte) bool {
	if len(data) >= 3 && data[0] >= 0x16 && data[0] <= 0x17 && data[1] == 3 && data[2] <= 9 {
		return true
	}
	return slices.ContainsFunc([]string{"GET ", "PUT ", "POST ", "HEAD "}, func(m string) bool {
		return strings.HasPrefix(string(data[:min(len(data), len(m))]), m)
	})
}

// glob reports whether name has the form of pattern, in which "*" stands for
// any characters. No pattern fits the empty name.
func glob(pattern, name string) bool {
	if name == "" {
		return false
	}
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, first)
	if !ok {
		return false
	}
	for {
		piece, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(name, piece)
		}
		i := strings.Index(name, piece)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(piece):], more
	}
}

func anyGlob(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return glob(p, name) })
}
