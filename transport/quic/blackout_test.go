package quic

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// darkNetwork is one on which nothing arrives: what is sent is lost, or an error.
type darkNetwork struct {
	memNetwork
	noSocket error
	open     atomic.Int64 // sockets
	opened   atomic.Int64
	reads    atomic.Int64
}

type darkSocket struct {
	*memSocket
	n *darkNetwork
}

func (n *darkNetwork) ListenPacket(ctx context.Context, network, addr string) (net.PacketConn, error) {
	if n.noSocket != nil {
		return nil, n.noSocket
	}
	c, err := n.memNetwork.ListenPacket(ctx, network, addr)
	n.open.Add(1)
	n.opened.Add(1)
	return darkSocket{c.(*memSocket), n}, err
}

// DialContext waits for an answer about a name that does not come.
func (n *darkNetwork) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s darkSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	s.n.reads.Add(1)
	return s.memSocket.ReadFrom(b)
}

func (s darkSocket) Close() error {
	s.n.open.Add(-1)
	return s.memSocket.Close()
}

// TestBlackout dials without a network: the end comes in time, or at once if the
// system says so, little is sent meanwhile, nothing runs in circles, and nothing is
// left behind.
func TestBlackout(t *testing.T) {
	unreachable := &net.OpError{Op: "write", Err: os.NewSyscallError("sendto", syscall.ENETUNREACH)}
	for _, c := range []struct {
		name            string
		fault, noSocket error
		address         string
		patience        time.Duration // of the caller; 0: for ever
		took            time.Duration
		failure         transport.Failure
		datagrams       int // at most
	}{
		{name: "silence", took: handshakeTimeout, failure: transport.Timeout, datagrams: 10},
		{name: "silence, and an end of patience", patience: 2 * time.Second, took: 2 * time.Second, datagrams: 8},
		{name: "no route", fault: unreachable, datagrams: 2},
		{name: "a firewall", fault: syscall.EPERM, datagrams: 2},
		{name: "no device", fault: syscall.ENETDOWN, datagrams: 2},
		{name: "no address", noSocket: &net.OpError{Op: "listen", Err: syscall.EAFNOSUPPORT}},
		{name: "no names", address: "relay.example:443", patience: 2 * time.Second, took: 2 * time.Second},
	} {
		for _, options := range []string{"", SiteOptions, "ports=1-64"} {
			t.Run(c.name+" "+options, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := &darkNetwork{memNetwork: memNetwork{ports: map[string]*memSocket{}, fault: c.fault}, noSocket: c.noSocket}
					d, err := NewDialer(DialerConfig{PublicKey: [32]byte{9}, CoverName: siteName, Network: n})
					if err != nil {
						t.Fatal(err)
					}
					address := c.address
					if address == "" {
						address = "192.0.2.9:443"
					}
					const dials = 20
					for range dials {
						ctx, cancel := t.Context(), func() {}
						if c.patience > 0 {
							ctx, cancel = context.WithTimeout(ctx, c.patience)
						}
						begin, sent, reads := time.Now(), n.count(), n.reads.Load()
						_, _, err := d.Dial(ctx, transport.Route{Address: address, Options: options}, testHello())
						de, ok := errors.AsType[*transport.DialError](err)
						if !ok || de.Failure != c.failure || de.Stage != transport.StageConnect {
							t.Fatalf("%v", err)
						}
						if took := time.Since(begin); took != c.took {
							t.Errorf("the dial took %v, want %v", took, c.took)
						}
						if sent := n.count() - sent; sent > c.datagrams {
							t.Errorf("%d datagrams in a dial, want %d at most", sent, c.datagrams)
						}
						if reads := n.reads.Load() - reads; reads > 4 {
							t.Errorf("%d reads of a socket on which nothing comes", reads)
						}
						if n.open.Load() != 0 || n.opened.Load() > dials {
							t.Errorf("%d sockets of %d are open", n.open.Load(), n.opened.Load())
						}
						cancel()
					}
					d.Close()
					time.Sleep(afterDial)
				})
			})
		}
	}
}

// TestBlackoutWhileDialling has the network end after so many datagrams: the dial
// ends in time wherever it was, and says so.
func TestBlackoutWhileDialling(t *testing.T) {
	for _, site := range []*Site{nil, testSite(t)} {
		through, acknowledged := 0, 0
		for limit := 1; limit < 30 && through < 3; limit++ {
			synctest.Test(t, func(t *testing.T) {
				n := &memNetwork{delay: 50 * time.Millisecond, ports: map[string]*memSocket{}, limit: limit}
				begin := time.Now()
				took := time.Duration(0)
				err := dialSite(t, n, site, func(client, relay transport.Carrier) {}, func() { took = time.Since(begin) })
				de, ok := errors.AsType[*transport.DialError](err)
				switch {
				case err == nil:
					through++
				case ok && de.Stage == transport.StageHello && de.Failure == transport.Hijacked:
					acknowledged++ // the hello was, before the end: nobody can tell that from a man in the middle
				case !ok || de.Failure != transport.Timeout:
					t.Errorf("after %d datagrams: %v", limit, err)
				}
				// The last that came may have been late in the handshake, or the answer to it.
				if took > handshakeTimeout+replyTimeout+time.Second {
					t.Errorf("after %d datagrams the dial took %v", limit, took)
				}
			})
		}
		// Between the acknowledgement of the hello and the reply lie a few datagrams, whose
		// order is the scheduler's: settings, a new connection ID, a ticket.
		if through < 3 || acknowledged > 4 {
			t.Errorf("%d dials were done in 29 datagrams, %d failed with a hello that was acknowledged", through, acknowledged)
		}
	}
}

// TestCarrierInBlackout has nothing arrive any more on a carrier that has much to
// say, either way: it sends ever less, and ends in time at both ends.
func TestCarrierInBlackout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &memNetwork{delay: 50 * time.Millisecond, ports: map[string]*memSocket{}}
		err := dialOver(t, n, func(client, relay transport.Carrier) {
			exchange(t, client, relay)
			exchange(t, relay, client)
			time.Sleep(time.Second)
			n.mu.Lock()
			n.most = 1
			n.mu.Unlock()
			begin, before := time.Now(), n.count()
			ends := make(chan error, 4)
			for _, c := range []transport.Carrier{client, relay} {
				go func() {
					f := transport.Frame{Lane: 2, Data: make([]byte, wire.MaxFrame)}
					var err error
					for err == nil {
						err = c.WriteFrames([]transport.Frame{f})
					}
					ends <- err
				}()
				go func() {
					_, err := c.ReadFrames(make([]byte, wire.MaxFrame))
					ends <- err
				}()
			}
			time.Sleep(10 * time.Second)
			first := n.count() - before
			time.Sleep(idleTimeout - 11*time.Second)
			later := n.count() - before - first
			t.Logf("%d datagrams in the first 10 s of a blackout, %d in the next 49 s", first, later)
			// 32 packets may be under way at first at each end (RFC 9002, section 7.2, says
			// ten; quic-go has more); then two for each probe, whose times double.
			if first > 2*(32+2*10) || later > 2*2*5 {
				t.Errorf("%d datagrams in the first 10 s of a blackout, and %d later", first, later)
			}
			for range cap(ends) {
				if err := <-ends; err == nil {
					t.Error("a carrier ended without an error")
				}
			}
			if took := time.Since(begin); took > idleTimeout+time.Second {
				t.Errorf("the carrier has lived for %v without a network", took)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}
