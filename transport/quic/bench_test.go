package quic

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	quicgo "github.com/quic-go/quic-go"

	"busel/internal/wire"
	"busel/transport"
	"busel/transport/transporttest"
)

// barePair is a carrier on QUIC that is not scrambled.
func barePair(b *testing.B) (client, relay transport.Carrier) {
	b.Helper()
	bare := func() *quicgo.Transport {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			b.Fatal(err)
		}
		tr := &quicgo.Transport{Conn: c}
		b.Cleanup(func() {
			tr.Close()
			c.Close()
		})
		return tr
	}
	cert, err := anyCertificate()
	if err != nil {
		b.Fatal(err)
	}
	cfg := quicConfig()
	cfg.MaxIncomingStreams = 1
	server := bare()
	ln, err := server.Listen(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{alpn}}, cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx := testContext(b)
	conn, err := bare().Dial(ctx, server.Conn.LocalAddr(), &tls.Config{NextProtos: []string{alpn}, InsecureSkipVerify: true}, quicConfig())
	if err != nil {
		b.Fatal(err)
	}
	s, err := conn.OpenStream()
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Write([]byte{0}); err != nil {
		b.Fatal(err)
	}
	run := func(conn *quicgo.Conn, s *quicgo.Stream) *carrier {
		c := newCarrier(scrambledWays(conn, s))
		done := make(chan struct{})
		go func() {
			c.run()
			close(done)
		}()
		b.Cleanup(func() {
			c.Close()
			<-done
		})
		return c
	}
	other, err := ln.Accept(ctx)
	if err != nil {
		b.Fatal(err)
	}
	s2, err := other.AcceptStream(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s2.Read(make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	return run(conn, s), run(other, s2)
}

// sitePair is a carrier in the HTTP/3 form.
func sitePair(b *testing.B) (client, relay transport.Carrier) {
	r, d := startSite(b)
	carriers, _ := r.answer(b, wire.Accept{})
	client, _, err := d.Dial(testContext(b), r.siteRoute(), testHello())
	if err != nil {
		b.Fatal(err)
	}
	relay = <-carriers
	b.Cleanup(func() { client.Close(); relay.Close() })
	return client, relay
}

// BenchmarkDial makes carriers in the HTTP/3 form.
func BenchmarkDial(b *testing.B) {
	r, d := startSite(b)
	carriers, hellos := r.answer(b, wire.Accept{})
	for b.Loop() {
		c, _, err := d.Dial(testContext(b), r.siteRoute(), testHello())
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
		<-hellos
		(<-carriers).Close()
	}
}

// BenchmarkCarrier moves frames of the greatest length, four in a batch, over
// loopback, as the benchmark of mirror does.
func BenchmarkCarrier(b *testing.B) {
	for name, make2 := range map[string]func(*testing.B) (client, relay transport.Carrier){
		"bare":      barePair,
		"scrambled": func(b *testing.B) (client, relay transport.Carrier) { return pair(b, transport.System{}) },
		"site":      sitePair,
		"site, up": func(b *testing.B) (client, relay transport.Carrier) {
			relay, client = sitePair(b)
			return client, relay
		},
	} {
		b.Run(name, func(b *testing.B) {
			to, from := make2(b)
			exchange(b, to, from)
			transporttest.BenchmarkCarrier(b, from, to)
		})
	}
}
