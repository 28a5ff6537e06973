package quic

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"busel/obfs/initial"
	"busel/obfs/vectors"
	"busel/transport"
)

// facts are what a client's Initial datagrams show, by the names of the table in
// docs/QUIC.md. Of a fact that is in several datagrams, or connections, there are several.
type facts map[string][]string

func (f facts) add(name string, v any) { f[name] = append(f[name], fmt.Sprint(v)) }

// factsOf reads the connections' datagrams in which a client sent Initial packets.
func factsOf(t testing.TB, connections [][][]byte) facts {
	t.Helper()
	f := facts{}
	for _, datagrams := range connections {
		f.connection(t, datagrams)
	}
	for name, of := range map[string]string{"order of extensions": "extensions, in order", "order of parameters": "parameters, in order"} {
		orders := f[of]
		delete(f, of)
		if slices.Sort(orders); len(slices.Compact(orders)) == 1 {
			f.add(name, "fixed")
		} else {
			f.add(name, "drawn")
		}
	}
	return f
}

func (f facts) connection(t testing.TB, datagrams [][]byte) {
	t.Helper()
	id, ok := initial.To(datagrams[0])
	if !ok {
		t.Fatal("a connection begins with something else")
	}
	up, _ := initial.KeysOf(id)
	have := map[int]byte{}
	whole := func() bool { // with the hello's header
		n := int(have[1])<<16 + int(have[2])<<8 + int(have[3]) + 4
		return len(have) >= n && n > 4
	}
	flight, largest := 0, int64(-1)
	var ends [2]map[int]int
	for i, d := range datagrams {
		p, rest, err := up.Open(d, largest)
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, int64(p.Number))
		frames, err := initial.Frames(p.Frames)
		if err != nil {
			t.Fatal(err)
		}
		f.add("size", len(d))
		f.add("SCID", len(p.From))
		if whole() {
			types := ""
			for _, x := range frames {
				types += map[byte]string{initial.Padding: "PADDING ", initial.Ack: "ACK "}[x.Type]
			}
			if frames[0].Type == initial.Ack { // others are sent again
				f.add("later Initials", strings.TrimSpace(types))
				f.add("their numbers", fmt.Sprintf("in %d", p.NumberLen))
			}
			if len(rest) > 0 {
				f.add("after them", map[byte]string{2: "Handshake"}[rest[0]>>4&3])
			}
			continue
		}
		if flight++; flight > 2 {
			t.Fatal("the ClientHello is not in two datagrams")
		}
		f.add("DCID", len(p.To))
		f.add("token", len(p.Token))
		f.add(fmt.Sprintf("number of datagram %d", i+1), fmt.Sprintf("%d in %d", p.Number, p.NumberLen))
		count, padding := map[byte]int{}, 0
		parts := map[int]int{} // ends of CRYPTO frames by their begin
		for _, x := range frames {
			count[x.Type]++
			if x.Type == initial.Padding {
				padding += len(x.Raw)
			}
			for j, b := range x.Data {
				have[int(x.Offset)+j] = b
			}
			if x.Type == initial.Crypto {
				parts[int(x.Offset)] = int(x.Offset) + len(x.Data)
			}
		}
		f.add(fmt.Sprintf("CRYPTO in datagram %d", i+1), count[initial.Crypto])
		f.add("PING", count[initial.Ping])
		f.add("PADDING", padding)
		f.add("runs of PADDING", count[initial.Padding])
		for again := true; again; {
			again = false
			for begin, end := range parts {
				if next, ok := parts[end]; ok {
					parts[begin], again = next, true
					delete(parts, end)
				}
			}
		}
		ends[i] = parts
	}
	hello := make([]byte, len(have))
	for i := range hello {
		hello[i] = have[i]
	}
	if !whole() || flight != 2 {
		t.Fatalf("%d datagrams, %d bytes of a ClientHello", flight, len(hello))
	}
	describe := func(parts map[int]int) string {
		var s []string
		for _, begin := range slices.Sorted(maps.Keys(parts)) {
			switch end := parts[begin]; {
			case begin == 0:
				f.add("front", end)
				s = append(s, "front")
			case end == len(hello):
				s = append(s, "end")
			default:
				f.add("middle", end-begin-(len(hello)+1)/2)
				s = append(s, "middle")
			}
		}
		return strings.Join(s, ", ")
	}
	f.add("datagram 1 has", describe(ends[0]))
	f.add("datagram 2 has", describe(ends[1]))
	f.hello(t, hello)
}

func isGREASE(id int) bool { return id&0x0f0f == 0x0a0a && id>>8 == id&0xff }

// hello reads a ClientHello (RFC 8446, section 4.1.2).
func (f facts) hello(t testing.TB, hello []byte) {
	t.Helper()
	c := vectors.Of(hello)
	c.Uint(1)
	body := c.Vector(3)
	body.Take(2 + 32)
	f.add("session id", len(body.Vector(1).B))
	ciphers := body.Vector(2).B
	body.Vector(1)
	extensions := body.Vector(2)
	if !body.Whole() || !c.Whole() {
		t.Fatal("the ClientHello is broken")
	}
	f.add("ciphers", hex.EncodeToString(ciphers))
	var ids, bodies []string
	var signatures, alpn, version string
	words := func(b []byte) string {
		var w []string
		for i := 0; i+1 < len(b); i += 2 {
			w = append(w, hex.EncodeToString(b[i:i+2]))
		}
		return strings.Join(w, ",")
	}
	for len(extensions.B) > 0 {
		id, b := extensions.Uint(2), extensions.Vector(2)
		if !extensions.OK {
			t.Fatal("an extension is broken")
		}
		if isGREASE(id) {
			f.add("GREASE extension", id)
			continue
		}
		ids = append(ids, fmt.Sprintf("%04x", id))
		if id != 0 && id != 51 && id != 57 && id != 0xfe0d {
			bodies = append(bodies, fmt.Sprintf("%04x%x", id, b.B))
		}
		switch id {
		case 0xfe0d:
			b.Take(1 + 4 + 1)
			key := b.Vector(2).B
			f.add("ECH", fmt.Sprintf("%d, %d", len(key), len(b.Vector(2).B)%32))
		case 10:
			f.add("groups", hex.EncodeToString(b.B[2:]))
		case 13:
			signatures = words(b.B[2:])
		case 16:
			list := b.Vector(2)
			p := list.Vector(1).B
			alpn = string([]byte{p[0], p[len(p)-1]})
		case 43:
			if version = "00"; slices.Contains(strings.Split(words(b.B[1:]), ","), "0304") {
				version = "13"
			}
		case 51:
			shares, s := b.Vector(2), []string(nil)
			for len(shares.B) > 0 {
				s = append(s, fmt.Sprintf("%04x:%d", shares.Uint(2), len(shares.Vector(2).B)))
			}
			f.add("key shares", strings.Join(s, " "))
		case 57:
			f.parameters(b.B)
		}
	}
	f.add("signatures", signatures)
	slices.Sort(bodies)
	f.add("bodies of extensions", fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(bodies, " "))))[:16])
	f.add("extensions, in order", strings.Join(ids, " "))
	n := len(ids)
	slices.Sort(ids)
	f.add("extensions", strings.Join(ids, " "))
	rest := slices.DeleteFunc(ids, func(s string) bool { return s == "0000" || s == "0010" })
	hash := func(s string) string {
		h := sha256.Sum256([]byte(s))
		return hex.EncodeToString(h[:])[:12]
	}
	sorted := strings.Split(words(ciphers), ",")
	slices.Sort(sorted)
	f.add("JA4", fmt.Sprintf("q%sd%02d%02d%s_%s_%s", version, len(sorted), n, alpn,
		hash(strings.Join(sorted, ",")), hash(strings.Join(rest, ",")+"_"+signatures)))
}

// parameters reads QUIC's transport parameters (RFC 9000, section 18).
func (f facts) parameters(b []byte) {
	varint := func() (v int) {
		n := 1 << (b[0] >> 6)
		v = int(b[0] & 0x3f)
		for _, x := range b[1:n] {
			v = v<<8 | int(x)
		}
		b = b[n:]
		return v
	}
	var ids, values []string
	for len(b) > 0 {
		id, n := varint(), 0
		if n = varint(); id%31 == 27 { // reserved, section 18.1
			f.add("reserved parameter", n)
		} else {
			ids = append(ids, fmt.Sprintf("%02x", id))
			if id != 0x11 { // in which one is reserved
				values = append(values, fmt.Sprintf("%02x=%x", id, b[:n]))
			}
		}
		b = b[n:]
	}
	slices.Sort(values)
	f.add("values of parameters", fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(values, " "))))[:16])
	f.add("parameters, in order", strings.Join(ids, " "))
	slices.Sort(ids)
	f.add("parameters", strings.Join(ids, " "))
}

// columns of the table in docs/QUIC.md.
const (
	ofChromium = 1
	ofBusel    = 3
)

// compare compares facts with a column of the table. A cell is a value, or "A..B".
func (f facts) compare(t *testing.T, column int) {
	t.Helper()
	text, err := os.ReadFile("../../docs/QUIC.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) <= ofBusel {
			continue
		}
		name, want := strings.TrimSpace(cells[0]), strings.Trim(strings.TrimSpace(cells[column]), "`")
		values, ok := f[name]
		if !ok {
			continue
		}
		seen++
		for _, v := range values {
			if !within(v, want) {
				t.Errorf("%s: docs/QUIC.md has %s, seen is %s", name, want, v)
			}
		}
	}
	if t.Logf("%v", f.summary()); seen != len(f) {
		t.Errorf("docs/QUIC.md has %d of the facts %v", seen, slices.Sorted(maps.Keys(f)))
	}
}

// summary is what the column should say.
func (f facts) summary() (s []string) {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		values := slices.Clone(f[name])
		slices.SortFunc(values, func(a, b string) int {
			x, _ := strconv.Atoi(a)
			y, _ := strconv.Atoi(b)
			return cmp.Or(x-y, strings.Compare(a, b))
		})
		if values = slices.Compact(values); len(values) > 1 {
			values = []string{values[0] + ".." + values[len(values)-1]}
		}
		s = append(s, name+": "+values[0]+"\n")
	}
	return s
}

func within(v, want string) bool {
	low, high, isRange := strings.Cut(want, "..")
	if !isRange {
		return v == want
	}
	a, errA := strconv.Atoi(low)
	b, errB := strconv.Atoi(high)
	n, errN := strconv.Atoi(v)
	return errA == nil && errB == nil && errN == nil && a <= n && n <= b
}

// TestChromiumsInitials: what docs/QUIC.md says of Chromium is true of what was captured.
func TestChromiumsInitials(t *testing.T) {
	text, err := os.ReadFile("../../obfs/initial/testdata/chromium-156.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Connections [][][]byte }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	factsOf(t, file.Connections).compare(t, ofChromium)
}

// ourInitials dials a site n times.
func ourInitials(t *testing.T, n int) (all [][][]byte) {
	site := testSite(t)
	for range n {
		synctest.Test(t, func(t *testing.T) {
			var sent [][]byte
			m := &memNetwork{delay: 20 * time.Millisecond, ports: map[string]*memSocket{}}
			m.lost = func(from net.Addr, b []byte) bool {
				if from.String() != "192.0.2.1:1000" && initial.Is(b) { // the relay is the first
					sent = append(sent, bytes.Clone(b))
				}
				return false
			}
			err := dialSite(t, m, site, func(client, relay transport.Carrier) {
				time.Sleep(50 * time.Second) // longer than anything of the handshake is kept
				exchange(t, client, relay)
			}, func() {})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, sent)
		})
	}
	return all
}

// TestInitials: what docs/QUIC.md says of Busel is true.
func TestInitials(t *testing.T) {
	factsOf(t, ourInitials(t, 20)).compare(t, ofBusel)
}

// TestRebind: a carrier of either form goes on when its client has another port, though a
// client of the HTTP/3 form has no ids to give out.
func TestRebind(t *testing.T) {
	for _, site := range []*Site{nil, testSite(t)} {
		synctest.Test(t, func(t *testing.T) {
			m := &memNetwork{delay: 20 * time.Millisecond, ports: map[string]*memSocket{}}
			err := dialSite(t, m, site, func(client, relay transport.Carrier) {
				for range 3 {
					exchange(t, client, relay)
					m.rebind()
					exchange(t, client, relay)
					exchange(t, relay, client)
				}
			}, func() {})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// path is what befalls datagrams: shares of them are lost, come twice, and come late.
type path struct{ lost, twice, late float64 }

// handshakes dials a server n times over a path, and
// says how many came to an end, and how long they took. With d the server is a relay's, and the
// ClientHello in disguise. change changes the server.
func handshakes(t *testing.T, n int, p path, dressed bool, d *initial.Disguise, change func(*quicgo.Transport, *tls.Config)) (good int, took time.Duration) {
	site := testSite(t)
	for i := range n {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			m := &memNetwork{delay: 25 * time.Millisecond, ports: map[string]*memSocket{}}
			m.lost = func(net.Addr, []byte) bool { return random.Float64() < p.lost }
			m.again = func() (later []time.Duration) {
				for again := true; again; again = random.Float64() < p.twice {
					later = append(later, 0)
					if random.Float64() < p.late {
						later[len(later)-1] = time.Duration(random.IntN(40)) * time.Millisecond
					}
				}
				return later
			}
			socket, _ := m.ListenPacket(t.Context(), "", "")
			server := &quicgo.Transport{Conn: socket}
			if d != nil {
				server.Conn = newSiteSocket(socket, d)
			}
			c := &tls.Config{Certificates: []tls.Certificate{site.Certificate}, NextProtos: []string{"h3"}}
			if change != nil {
				change(server, c)
			}
			l, err := server.Listen(c, quicConfig())
			if err != nil {
				t.Fatal(err)
			}
			client, _ := m.ListenPacket(t.Context(), "", "")
			cfg, q := &tls.Config{NextProtos: []string{"h3"}, InsecureSkipVerify: true, ServerName: siteName}, quicConfig()
			q.InitialPacketSize = sitePacketSize
			q.HandshakeIdleTimeout = 20 * time.Second
			v := &visit{socket: client, transport: &quicgo.Transport{Conn: client}}
			first, err := newInitials(d)
			if err != nil {
				t.Fatal(err)
			}
			if dressed {
				v.transport.Conn, v.transport.ConnectionIDGenerator = newBrowserSocket(client, first, nil), noID{}
				first.choose(cfg, q)
			}
			begin := time.Now()
			for again := true; again; again = err != nil && first.refused.Swap(false) {
				v.conn, err = v.transport.Dial(t.Context(), socket.LocalAddr(), cfg, q)
			}
			if err == nil {
				good++
				took += time.Since(begin)
			}
			v.close()
			l.Close()
			server.Close()
			socket.Close()
			time.Sleep(afterDial)
		})
	}
	return good, took / time.Duration(max(good, 1))
}

// TestInitialsUnderLoss: with its Initial packets dressed a client comes through to any
// server as often as without, and as soon.
func TestInitialsUnderLoss(t *testing.T) {
	const dials = 30
	retry := func(s *quicgo.Transport, _ *tls.Config) { s.VerifySourceAddress = func(net.Addr) bool { return true } }
	again := func(_ *quicgo.Transport, c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384} }
	for _, c := range []struct {
		name   string
		change func(*quicgo.Transport, *tls.Config)
	}{{"plain", nil}, {"Retry", retry}, {"HelloRetryRequest", again}} {
		for _, share := range []float64{0, 0.1, 0.3} {
			if c.change != nil && share == 0.1 {
				continue
			}
			bare, bareTook := handshakes(t, dials, path{lost: share}, false, nil, c.change)
			for _, d := range []*initial.Disguise{nil, initial.NewDisguise([32]byte{1})} {
				if d != nil && c.name == "HelloRetryRequest" {
					continue // no relay asks for another ClientHello
				}
				good, took := handshakes(t, dials, path{lost: share}, true, d, c.change)
				t.Logf("%s, %.0f %% lost, in disguise: %t: %d of %d in %v, without dress %d in %v", c.name, 100*share, d != nil, good, dials, took, bare, bareTook)
				if good < bare-2 || share < 0.2 && good < dials-1 || share == 0 && took != bareTook || took > 2*bareTook+100*time.Millisecond {
					t.Errorf("%s, %.0f %% lost, in disguise: %t: %d of %d in %v, without dress %d in %v", c.name, 100*share, d != nil, good, dials, took, bare, bareTook)
				}
			}
		}
	}
}

// TestInitialsTwice: a network that doubles datagrams, and has them overtake each other, ends
// no dial.
func TestInitialsTwice(t *testing.T) {
	const dials = 100
	for _, p := range []path{{twice: 0.5}, {late: 0.5}, {lost: 0.05, twice: 0.5, late: 0.5}} {
		for _, d := range []*initial.Disguise{nil, initial.NewDisguise([32]byte{1})} {
			good, took := handshakes(t, dials, p, true, d, nil)
			bare, bareTook := handshakes(t, dials, p, false, nil, nil)
			t.Logf("%+v, in disguise: %t: %d of %d in %v, without dress %d in %v", p, d != nil, good, dials, took, bare, bareTook)
			if good < bare || took > 2*bareTook {
				t.Errorf("%+v, in disguise: %t: %d of %d in %v, without dress %d in %v", p, d != nil, good, dials, took, bare, bareTook)
			}
		}
	}
}

// TestReplayedInPart: who recorded a client, and says one of its first datagrams alone, is answered, as by
// any server.
func TestReplayedInPart(t *testing.T) {
	site := testSite(t)
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sent [][]byte
		m := &memNetwork{delay: 20 * time.Millisecond, ports: map[string]*memSocket{}}
		m.lost = func(from net.Addr, b []byte) bool {
			if from.String() != "192.0.2.1:1000" { // the relay is the first
				mu.Lock()
				defer mu.Unlock()
				sent = append(sent, bytes.Clone(b))
			}
			return false
		}
		err := dialSite(t, m, site, func(_, _ transport.Carrier) {
			time.Sleep(2 * time.Minute) // the carrier, and its ids, are forgotten
			mu.Lock()
			first := slices.Clone(sent[:2])
			mu.Unlock()
			for i, datagram := range first {
				socket, _ := m.ListenPacket(t.Context(), "", "")
				_, _ = socket.WriteTo(datagram, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1000})
				select {
				case <-socket.(*memSocket).in:
				case <-time.After(time.Second):
					t.Errorf("datagram %d draws no answer", i+1)
				}
				time.Sleep(2 * time.Minute)
			}
		}, func() {})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestOtherVersion: a server that does not speak version 1 is told from one that is silent.
func TestOtherVersion(t *testing.T) {
	site := testSite(t)
	synctest.Test(t, func(t *testing.T) {
		m := &memNetwork{delay: 25 * time.Millisecond, ports: map[string]*memSocket{}}
		socket, _ := m.ListenPacket(t.Context(), "", "")
		server := &quicgo.Transport{Conn: socket}
		q := quicConfig()
		q.Versions = []quicgo.Version{quicgo.Version2}
		l, err := server.Listen(&tls.Config{Certificates: []tls.Certificate{site.Certificate}, NextProtos: []string{"h3"}}, q)
		if err != nil {
			t.Fatal(err)
		}
		d, err := NewDialer(DialerConfig{PublicKey: [32]byte{9}, CoverName: siteName, Network: m})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = d.Dial(context.Background(), transport.Route{Address: socket.LocalAddr().String(), Options: SiteOptions}, testHello())
		if _, ok := errors.AsType[*quicgo.VersionNegotiationError](err); !ok {
			t.Errorf("%v", err)
		}
		d.Close()
		l.Close()
		server.Close()
		socket.Close()
		time.Sleep(afterDial)
	})
}
