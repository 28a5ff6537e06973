package scenario

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/net/quic"

	"busel/scripts/lab/netns"
	"busel/scripts/lab/tunnel"
)

// QUICSite answers every QUIC v1 stream with the genuine sentence: as much of a site
// as is needed to prove that a censor of QUIC bites.
type QUICSite struct {
	endpoint *quic.Endpoint
	ended    chan struct{}
}

const quicProtocol = "h3" // what every ClientHello of a browser offers

// NewQUICSite serves at host:port inside. The caller closes it.
func NewQUICSite(ctx context.Context, world *netns.Namespace, address string) (*QUICSite, error) {
	cfg, err := tunnel.SelfSigned(ListedName)
	if err != nil {
		return nil, err
	}
	cfg.MinVersion, cfg.NextProtos = tls.VersionTLS13, []string{quicProtocol}
	conn, err := world.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	endpoint, err := quic.NewEndpoint(conn, &quic.Config{TLSConfig: cfg})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	s := &QUICSite{endpoint: endpoint, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		for {
			c, err := endpoint.Accept(context.Background())
			if err != nil {
				return // closed
			}
			go answer(c)
		}
	}()
	return s, nil
}

func answer(c *quic.Conn) {
	ctx := context.Background() // the connection's own time-outs end it
	s, err := c.AcceptStream(ctx)
	if err != nil {
		return
	}
	_, _ = io.WriteString(s, genuine)
	_ = s.Close()
	_ = c.Wait(ctx)
}

// Close ends the site.
func (s *QUICSite) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), warmTime)
	defer cancel()
	err := s.endpoint.Close(ctx)
	<-s.ended
	return err
}

// FetchQUIC asks the site for its sentence over a QUIC v1 connection with the name
// in its ClientHello.
func FetchQUIC(ctx context.Context, client *netns.Namespace, address, name string) error {
	conn, err := client.ListenPacket(ctx, "udp", net.JoinHostPort("0.0.0.0", "0"))
	if err != nil {
		return err
	}
	endpoint, err := quic.NewEndpoint(conn, nil)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	gone, cancel := context.WithCancel(ctx)
	cancel() // closing is not waited for: the peer may be out of reach
	defer endpoint.Close(gone)
	c, err := endpoint.Dial(ctx, "udp", address, &quic.Config{TLSConfig: &tls.Config{
		ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{quicProtocol},
	}})
	if err != nil {
		return fmt.Errorf("QUIC: %w", err)
	}
	s, err := c.NewStream(ctx)
	if err != nil {
		return fmt.Errorf("QUIC: %w", err)
	}
	s.SetReadContext(ctx)
	if err := errors.Join(ask(s), s.Flush()); err != nil {
		return fmt.Errorf("QUIC: %w", err)
	}
	page, err := io.ReadAll(io.LimitReader(s, int64(len(genuine))))
	if err != nil {
		return fmt.Errorf("QUIC: %w", err)
	}
	if string(page) != genuine {
		return errors.New("QUIC: the page is not the origin's")
	}
	return nil
}

func ask(s *quic.Stream) error {
	_, err := io.WriteString(s, "page, please")
	return err
}
