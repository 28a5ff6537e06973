package mirror

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/nginxtest"
	"busel/obfs/fragment"
	"busel/transport"
	"busel/transport/transporttest"
)

// fragments are the options that cut the hello.
var fragments = []string{"fragment=records", "fragment=segments", "fragment=both"}

func (r *relay) routeWith(options string) transport.Route {
	route := r.route()
	route.Options = options
	return route
}

// TestFragments holds carriers to the contract whose hello was cut.
func TestFragments(t *testing.T) {
	sites(t, func(t *testing.T, s *site) {
		for _, options := range fragments {
			t.Run(options, func(t *testing.T) {
				r := startRelay(t, s, nil)
				d := r.dialer(t, nil)
				transporttest.TestCarrier(t, func(t *testing.T) (transport.Carrier, transport.Carrier) {
					return r.pairOver(t, d, r.routeWith(options))
				})
			})
		}
	})
}

// tap is a network that keeps what was written in each call, and what was read.
type tap struct {
	transport.System
	mu     sync.Mutex
	writes [][]byte
	times  []time.Time
	read   []byte
}

func (n *tap) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := n.System.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &tapped{c.(*net.TCPConn), n}, nil
}

type tapped struct {
	*net.TCPConn
	n *tap
}

func (c *tapped) Write(b []byte) (int, error) {
	c.n.mu.Lock()
	c.n.writes = append(c.n.writes, bytes.Clone(b))
	c.n.times = append(c.n.times, time.Now())
	c.n.mu.Unlock()
	return c.TCPConn.Write(b)
}

func (c *tapped) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.n.mu.Lock()
	c.n.read = append(c.n.read, b[:n]...)
	c.n.mu.Unlock()
	return n, err
}

// hellos returns the writes that carry ClientHellos, and how many of these.
func (n *tap) hellos(t *testing.T) (writes [][]byte, count int) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	var m messages
	for _, w := range n.writes {
		part := false
		for len(w) > 0 {
			used, o := m.feed(w, typeClientHello)
			if o == notTLS { // the first record of another kind
				return writes, count
			}
			if !part && len(m.buf)+m.nHdr > 0 || o == gotMessage {
				part = true
				writes = append(writes, w)
			}
			if w = w[used:]; o == gotMessage {
				count++
				m.next()
			}
		}
	}
	return writes, count
}

// TestFragmentsOnTheWire looks at what is written, the answer to a
// HelloRetryRequest too.
func TestFragmentsOnTheWire(t *testing.T) {
	retry := func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384} }
	for name, tt := range map[string]struct {
		site   func() *site
		hellos int
	}{
		"go":          {func() *site { return goSite(t, nil) }, 1},
		"go retry":    {func() *site { return goSite(t, retry) }, 2},
		"nginx retry": {func() *site { return nginxSite(t, nginxtest.Config{Curves: "secp384r1"}) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, tt.site(), nil)
			for _, options := range append([]string{""}, fragments...) {
				n := new(tap)
				d := r.dialer(t, func(c *DialerConfig) { c.Network = n })
				c, e := r.pairOver(t, d, r.routeWith(options))
				send(t, c, e, 1)
				send(t, e, c, 2)
				writes, count := n.hellos(t)
				if count != tt.hellos {
					t.Errorf("%q: %d hellos, want %d", options, count, tt.hellos)
				}
				whole := bytes.Contains(slices.Concat(writes...), []byte(r.site.name))
				inOne := slices.ContainsFunc(writes, func(w []byte) bool { return bytes.Contains(w, []byte(r.site.name)) })
				switch options {
				case "":
					if len(writes) != tt.hellos || !inOne {
						t.Errorf("an uncut hello is %d writes, the name in one: %v", len(writes), inOne)
					}
				case "fragment=records":
					if len(writes) != tt.hellos || whole {
						t.Errorf("%s: %d writes, the name whole: %v", options, len(writes), whole)
					}
				case "fragment=segments":
					if len(writes) < 3*tt.hellos || inOne || !whole || len(writes[0]) > 4 {
						t.Errorf("%s: %d writes, the first of %d bytes, the name in one: %v, whole: %v", options, len(writes), len(writes[0]), inOne, whole)
					}
				default:
					if len(writes) < 3*tt.hellos || whole || len(writes[0]) > 4 {
						t.Errorf("%s: %d writes, the first of %d bytes, the name whole: %v", options, len(writes), len(writes[0]), whole)
					}
				}
				if strings.Contains(options, "=records") || options == "" {
					continue
				}
				if d := n.times[1].Sub(n.times[0]); d < fragment.MinPause {
					t.Errorf("%s: the second segment came after %v", options, d)
				}
			}
		})
	}
}

// TestCutAnywhere recognises a hello in two records, cut after each of its bytes,
// and in records of one byte, however it arrives.
func TestCutAnywhere(t *testing.T) {
	s, e := newKey(t), newKey(t)
	es, err := e.ECDH(s.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	random := [32]byte{1, 2, 3}
	msg := makeHello(random, make([]byte, 32), shareOf{groupX25519, e.PublicKey().Bytes()})
	h, _ := parseClientHello(msg)
	copy(msg[sidStart:], sessionID(random, es, h.bound(msg)...))
	k := &link{l: &Listener{cfg: ListenerConfig{Key: s}}}
	recognised := func(stream []byte, piece int) bool {
		var m messages
		for b := stream; len(b) > 0; b = b[min(piece, len(b)):] {
			n, o := m.feed(b[:min(piece, len(b))], typeClientHello)
			if o == gotMessage {
				return n == min(piece, len(b)) && len(b) <= piece && k.recognise(m.buf)
			}
			if o == notTLS {
				return false
			}
		}
		return false
	}
	streams := [][]byte{inRecords(msg, 1), inRecords(msg, 3)}
	for cut := 1; cut < len(msg); cut++ {
		streams = append(streams, slices.Concat(inRecords(msg[:cut], cut), inRecords(msg[cut:], len(msg))))
	}
	for i, stream := range streams {
		for _, piece := range []int{1, 4, 7, len(stream)} {
			if !recognised(stream, piece) {
				t.Errorf("stream %d in pieces of %d is not recognised", i, piece)
			}
		}
	}
	// A record of no bytes is no TLS, and the cover says so.
	if recognised(slices.Concat(inRecords(msg[:9], 9), []byte{recordHandshake, 3, 1, 0, 0}, inRecords(msg[9:], len(msg))), 1) {
		t.Error("an empty record is taken")
	}
}

func TestCheckOptions(t *testing.T) {
	for _, good := range append([]string{""}, fragments...) {
		if err := CheckOptions(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"fragment", "fragment=", "fragment=tls", "fragment=records,segments", "records", "port=443", "fragment=both "} {
		err := CheckOptions(bad)
		if err == nil || !strings.Contains(err.Error(), "get a newer Busel") {
			t.Errorf("%q: %v", bad, err)
		}
		r := relay{addr: "127.0.0.1:1", key: newKey(t), site: &site{name: coverName}}
		_, _, err = r.dialer(t, nil).Dial(testContext(t), r.routeWith(bad), testHello())
		if e := dialFailure(t, err); e.Failure != "" || e.Stage != transport.StageConnect {
			t.Errorf("%q: the dial says %v", bad, err)
		}
	}
}

// TestPauseEnds: who leaves during a pause does not wait for it.
func TestPauseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		go io.Copy(io.Discard, far)
		defer far.Close()
		dead := make(chan struct{})
		s := &shim{turn: newTurn(), conn: near, cut: fragment.Segments, dead: dead}
		hello := inRecords(makeHello([32]byte{1}, make([]byte, 32), shareOf{groupX25519, make([]byte, 32)}), 1<<14)
		begin := time.Now()
		if n, err := s.Write(hello); n != len(hello) || err != nil {
			t.Errorf("wrote %d of %d: %v", n, len(hello), err)
		}
		if d := time.Since(begin); d < fragment.MinPause || d > (fragment.MaxParts-1)*fragment.MaxPause {
			t.Errorf("a hello takes %v", d)
		}
		close(dead)
		begin = time.Now()
		if _, err := s.Write(hello); !errors.Is(err, net.ErrClosed) || time.Since(begin) != 0 {
			t.Errorf("after the end: %v in %v", err, time.Since(begin))
		}
	})
}
