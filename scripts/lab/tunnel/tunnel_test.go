package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"busel/internal/exit"
	"busel/internal/flow"
	"busel/scripts/lab/tunnel"
)

// loopback lets the exit go to this machine.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// start runs a server of the kind and returns a client of it.
func start(t *testing.T, kind tunnel.Kind) *tunnel.Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		opener := exit.New(exit.Config{Allow: loopback})
		if err := tunnel.Serve(ctx, ln, kind, "cover.example", opener); !errors.Is(err, context.Canceled) {
			t.Errorf("the server ended: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return &tunnel.Client{Kind: kind, Server: ln.Addr().String(), Name: "cover.example", Dial: new(net.Dialer).DialContext}
}

// echo sends back what it gets, once the other side has said all.
func echo(t *testing.T) flow.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				_, _ = c.Write(b)
			}()
		}
	}()
	return flow.AddrFrom(netip.MustParseAddrPort(ln.Addr().String()))
}

func TestBytesPass(t *testing.T) {
	for _, kind := range []tunnel.Kind{tunnel.TLS, tunnel.Browser, tunnel.Random} {
		t.Run(string(kind), func(t *testing.T) {
			c := start(t, kind)
			s, err := c.OpenStream(t.Context(), echo(t))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			sent := bytes.Repeat([]byte("storks "), 100_000)
			if _, err := s.Write(sent); err != nil {
				t.Fatal(err)
			}
			if err := s.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes came back of %d: %v", len(got), len(sent), err)
			}
		})
	}
}

// TestRefusal: a destination that is denied ends the stream.
func TestRefusal(t *testing.T) {
	s, err := start(t, tunnel.TLS).OpenStream(t.Context(), flow.Addr{IP: netip.MustParseAddr("10.0.0.1"), Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came from a denied destination", n)
	}
}

// TestRandomLooksRandom: nothing of the first segment is fixed, or the censor's
// classifier would be proven on something else than it is for.
func TestRandomLooksRandom(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const least = 16 + 1 + 4 + 2 + 5 // nonce, address and hello
	var first [2][]byte
	for i := range first {
		c := &tunnel.Client{Kind: tunnel.Random, Server: ln.Addr().String(), Dial: new(net.Dialer).DialContext}
		s, err := c.OpenStream(t.Context(), flow.Addr{IP: netip.MustParseAddr("192.0.2.1"), Port: 443})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		first[i] = make([]byte, least)
		if _, err := io.ReadFull(conn, first[i]); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	equal := 0
	for i := range first[0] {
		if first[0][i] == first[1][i] {
			equal++
		}
	}
	if equal > 4 { // chance: below 1e-7
		t.Errorf("%d of %d bytes are the same in two connections", equal, least)
	}
}
